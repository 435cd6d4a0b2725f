import java.util.List;
import java.util.concurrent.Callable;
import org.eclipse.paho.mqttv5.client.IMqttToken;
import org.eclipse.paho.mqttv5.client.MqttAsyncClient;
import org.eclipse.paho.mqttv5.client.MqttCallback;
import org.eclipse.paho.mqttv5.client.MqttConnectionOptions;
import org.eclipse.paho.mqttv5.client.MqttDisconnectResponse;
import org.eclipse.paho.mqttv5.client.MqttClientException;
import org.eclipse.paho.mqttv5.client.persist.MemoryPersistence;
import org.eclipse.paho.mqttv5.common.MqttException;
import org.eclipse.paho.mqttv5.common.MqttMessage;
import org.eclipse.paho.mqttv5.common.MqttSubscription;
import org.eclipse.paho.mqttv5.common.packet.MqttProperties;
import org.eclipse.paho.mqttv5.common.packet.UserProperty;

/** Paho's client for 5. */
final class PeerV5 extends Peer implements MqttCallback {
    private final MqttAsyncClient mqtt;

    PeerV5(String name, Options options) throws Exception {
        mqtt = new MqttAsyncClient(uri(), name, new MemoryPersistence());
        mqtt.setCallback(this);
        MqttConnectionOptions connect = new MqttConnectionOptions();
        connect.setCleanStart(!options.keep());
        connect.setSessionExpiryInterval(options.keep() ? 3600L : 0L);
        connect.setKeepAliveInterval(30);
        connect.setSocketFactory(sockets);
        if (options.user() != null) {
            connect.setUserName(options.user());
            connect.setPassword(bytes(options.password()));
        }
        if (options.willTopic() != null) {
            connect.setWill(options.willTopic(), new MqttMessage(bytes(options.willPayload()), 1, false, new MqttProperties()));
        }
        try {
            IMqttToken token = mqtt.connect(connect);
            token.waitForCompletion(WAIT);
            sessionPresent = token.getSessionPresent();
        } catch (MqttException error) {
            // From 128 to 162 these are the CONNACK's own codes; the library's begin at 32000.
            if (error.getReasonCode() < 128 || error.getReasonCode() > 162) throw error;
            throw new Refused(error.getReasonCode());
        }
    }

    @Override
    void subscribe(String filter, int qos, int identifier) throws Exception {
        MqttProperties with = new MqttProperties();
        if (identifier != 0) with.setSubscriptionIdentifier(identifier);
        MqttSubscription[] one = {new MqttSubscription(filter, qos)};
        IMqttToken token = mqtt.subscribe(one, null, null, with);
        token.waitForCompletion(WAIT);
        Clients.equal(token.getReasonCodes()[0], qos, "SUBACK");
    }

    @Override
    void publish(String topic, byte[] payload, int qos, boolean retain, Properties with) throws Exception {
        MqttMessage message = new MqttMessage(payload, qos, retain, new MqttProperties());
        if (with != null) {
            MqttProperties properties = message.getProperties();
            properties.setPayloadFormat(with.format());
            properties.setMessageExpiryInterval(with.expiry());
            properties.setContentType(with.contentType());
            properties.setResponseTopic(with.response());
            properties.setCorrelationData(bytes(with.correlation()));
            properties.setUserProperties(with.user().stream().map(pair -> new UserProperty(pair.name(), pair.value())).toList());
        }
        retryWhenFull(() -> mqtt.publish(topic, message)).waitForCompletion(WAIT);
    }

    private static IMqttToken retryWhenFull(Callable<IMqttToken> publish) throws Exception {
        for (long deadline = System.nanoTime() + WAIT * 1_000_000L; ; Thread.sleep(1)) {
            try {
                return publish.call();
            } catch (MqttException error) {
                // A completed token still counts as in flight until the library's callback thread comes to it.
                if (error.getReasonCode() != MqttClientException.REASON_CODE_MAX_INFLIGHT || System.nanoTime() > deadline) throw error;
            }
        }
    }

    @Override
    void close() throws Exception {
        mqtt.disconnect().waitForCompletion(WAIT);
        mqtt.close();
    }

    @Override
    public void messageArrived(String topic, MqttMessage message) {
        MqttProperties p = message.getProperties();
        // What did not come is null here, and the scenario that asked for all compares with that.
        byte[] correlation = p.getCorrelationData();
        Long expiry = p.getMessageExpiryInterval();
        List<Pair> user = p.getUserProperties().stream().map(pair -> new Pair(pair.getKey(), pair.getValue())).toList();
        properties.add(new Properties(p.getPayloadFormat(), expiry == null ? -1 : expiry, p.getContentType(), p.getResponseTopic(),
                correlation == null ? null : text(correlation), user, List.copyOf(p.getSubscriptionIdentifiers())));
        messages.add(new Message(topic, text(message.getPayload()), message.getQos(), message.isRetained()));
    }

    @Override
    public void disconnected(MqttDisconnectResponse response) {
        // The library's own codes for a lost connection begin at 32000.
        ends.add(response.getReturnCode() < 32000 && response.getException() == null ? response.getReturnCode() : -1);
    }

    @Override
    public void mqttErrorOccurred(MqttException error) {}

    @Override
    public void deliveryComplete(IMqttToken token) {}

    @Override
    public void connectComplete(boolean reconnect, String uri) {}

    @Override
    public void authPacketArrived(int reason, MqttProperties properties) {}
}
