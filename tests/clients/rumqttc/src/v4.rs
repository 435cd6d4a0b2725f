//! rumqttc's client for 3.1.1.

use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet, QoS, SubscribeReasonCode,
};
use tokio::task::JoinHandle;

use crate::connection::{address, End, Handle, Message, Options, Sink};

pub fn open(name: &str, options: &Options, sink: Sink) -> (Handle, JoinHandle<()>) {
    let (host, port, transport) = address();
    let mut mqtt = MqttOptions::new(name, host, port);
    mqtt.set_transport(transport)
        .set_keep_alive(Duration::from_secs(30))
        .set_clean_session(!options.keep)
        .set_max_packet_size(2 << 20, 2 << 20);
    if let Some((user, password)) = &options.credentials {
        mqtt.set_credentials(user, password);
    }
    if let Some((topic, payload)) = &options.will {
        mqtt.set_last_will(LastWill::new(topic, payload.clone(), QoS::AtLeastOnce, false));
    }
    let (client, events) = AsyncClient::new(mqtt, 100);
    (Handle::V4(client), tokio::spawn(poll(events, sink)))
}

async fn poll(mut events: EventLoop, sink: Sink) {
    let mut closing = false;
    loop {
        let event = match events.poll().await {
            Ok(event) => event,
            Err(ConnectionError::ConnectionRefused(code)) => {
                let _ = sink.end.send(End::Refused(refusal(code)));
                return;
            }
            Err(error) => {
                let _ = sink.end.send(End::Lost(None, error.to_string()));
                return;
            }
        };
        // The other side of a channel is gone once a scenario is over.
        let _ = match event {
            Event::Incoming(Packet::ConnAck(ack)) => sink.session_present.send(ack.session_present).is_ok(),
            Event::Incoming(Packet::Publish(p)) => sink.messages.send(Message::new(p.topic, &p.payload, p.qos, p.retain)).is_ok(),
            Event::Incoming(Packet::SubAck(ack)) => sink.granted.send(ack.return_codes.iter().map(granted).collect()).is_ok(),
            Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) | Event::Outgoing(Outgoing::Publish(0)) => {
                sink.published.send(()).is_ok()
            }
            Event::Outgoing(Outgoing::Disconnect) => {
                closing = true;
                true
            }
            _ => true,
        };
        if closing {
            // Dropping the event loop closes the socket, after the DISCONNECT that was just flushed.
            let _ = sink.end.send(End::Lost(None, "closed".into()));
            return;
        }
    }
}

fn granted(code: &SubscribeReasonCode) -> Option<u8> {
    match code {
        SubscribeReasonCode::Success(qos) => Some(*qos as u8),
        SubscribeReasonCode::Failure => None,
    }
}

fn refusal(code: ConnectReturnCode) -> u8 {
    code as u8
}
