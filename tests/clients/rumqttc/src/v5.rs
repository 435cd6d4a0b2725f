//! rumqttc's client for 5.

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, Packet, PublishProperties, SubscribeProperties, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use rumqttc::{Outgoing, QoS};
use tokio::task::JoinHandle;

use crate::connection::{address, End, Handle, Message, Options, Sink};

pub fn open(name: &str, options: &Options, sink: Sink) -> (Handle, JoinHandle<()>) {
    let (host, port, transport) = address();
    let mut mqtt = MqttOptions::new(name, host, port);
    mqtt.set_transport(transport).set_keep_alive(Duration::from_secs(30)).set_clean_start(!options.keep).set_max_packet_size(Some(2 << 20));
    mqtt.set_session_expiry_interval(Some(if options.keep { 3600 } else { 0 }));
    if let Some((user, password)) = &options.credentials {
        mqtt.set_credentials(user, password);
    }
    if let Some((topic, payload)) = &options.will {
        mqtt.set_last_will(LastWill::new(topic, payload.clone(), QoS5::AtLeastOnce, false, None));
    }
    let (client, events) = AsyncClient::new(mqtt, 100);
    (Handle::V5(client), tokio::spawn(poll(events, sink)))
}

pub fn subscribe(client: &AsyncClient, filter: &str, qos: QoS, identifier: Option<usize>) {
    let properties = SubscribeProperties { id: identifier, user_properties: Vec::new() };
    client.try_subscribe_many_with_properties([Filter::new(filter, to5(qos))], properties).expect("room for a request");
}

pub fn publish(client: &AsyncClient, topic: String, qos: QoS, retain: bool, payload: Vec<u8>, properties: Option<PublishProperties>) {
    let sent = match properties {
        Some(properties) => client.try_publish_with_properties(topic, to5(qos), retain, payload, properties),
        None => client.try_publish(topic, to5(qos), retain, payload),
    };
    sent.expect("room for a request");
}

async fn poll(mut events: EventLoop, sink: Sink) {
    loop {
        let event = match events.poll().await {
            Ok(event) => event,
            Err(error) => {
                let _ = sink.end.send(end(error));
                return;
            }
        };
        // The other side of a channel is gone once a scenario is over.
        let _ = match event {
            Event::Incoming(Packet::ConnAck(ack)) => sink.session_present.send(ack.session_present).is_ok(),
            Event::Incoming(Packet::Publish(p)) => {
                let topic = String::from_utf8(p.topic.to_vec()).expect("a topic is UTF-8");
                let message = Message { topic, payload: p.payload.to_vec(), qos: from5(p.qos), retain: p.retain, properties: p.properties };
                sink.messages.send(message).is_ok()
            }
            Event::Incoming(Packet::SubAck(ack)) => sink.granted.send(ack.return_codes.iter().map(granted).collect()).is_ok(),
            Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) | Event::Outgoing(Outgoing::Publish(0)) => {
                sink.published.send(()).is_ok()
            }
            Event::Outgoing(Outgoing::Disconnect) => {
                // Dropping the event loop closes the socket, after the DISCONNECT that was just flushed.
                let _ = sink.end.send(End::Lost(None, "closed".into()));
                return;
            }
            _ => true,
        };
    }
}

fn end(error: ConnectionError) -> End {
    match error {
        ConnectionError::ConnectionRefused(code) => End::Refused(refusal(code)),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            End::Lost(Some(disconnect_reason(reason_code)), "DISCONNECT".into())
        }
        error => End::Lost(None, error.to_string()),
    }
}

fn disconnect_reason(code: DisconnectReasonCode) -> u8 {
    code as u8
}

/// The codes that a login can be refused with; the library has names for them, not numbers.
fn refusal(code: ConnectReturnCode) -> u8 {
    match code {
        ConnectReturnCode::BadUserNamePassword => 134,
        ConnectReturnCode::NotAuthorized => 135,
        other => panic!("refused with {other:?}"),
    }
}

fn granted(code: &SubscribeReasonCode) -> Option<u8> {
    match code {
        SubscribeReasonCode::Success(qos) => Some(*qos as u8),
        _ => None,
    }
}

fn to5(qos: QoS) -> QoS5 {
    match qos {
        QoS::AtMostOnce => QoS5::AtMostOnce,
        QoS::AtLeastOnce => QoS5::AtLeastOnce,
        QoS::ExactlyOnce => QoS5::ExactlyOnce,
    }
}

fn from5(qos: QoS5) -> QoS {
    match qos {
        QoS5::AtMostOnce => QoS::AtMostOnce,
        QoS5::AtLeastOnce => QoS::AtLeastOnce,
        QoS5::ExactlyOnce => QoS::ExactlyOnce,
    }
}
