import java.util.concurrent.Callable;
import org.eclipse.paho.client.mqttv3.IMqttDeliveryToken;
import org.eclipse.paho.client.mqttv3.IMqttToken;
import org.eclipse.paho.client.mqttv3.MqttAsyncClient;
import org.eclipse.paho.client.mqttv3.MqttCallback;
import org.eclipse.paho.client.mqttv3.MqttConnectOptions;
import org.eclipse.paho.client.mqttv3.MqttException;
import org.eclipse.paho.client.mqttv3.MqttMessage;
import org.eclipse.paho.client.mqttv3.persist.MemoryPersistence;

/** Paho's client for 3.1.1. */
final class PeerV3 extends Peer implements MqttCallback {
    private final MqttAsyncClient mqtt;

    PeerV3(String name, Options options) throws Exception {
        mqtt = new MqttAsyncClient(uri(), name, new MemoryPersistence());
        mqtt.setCallback(this);
        MqttConnectOptions connect = new MqttConnectOptions();
        connect.setMqttVersion(MqttConnectOptions.MQTT_VERSION_3_1_1);
        connect.setCleanSession(!options.keep());
        connect.setKeepAliveInterval(30);
        connect.setSocketFactory(sockets);
        if (options.user() != null) {
            connect.setUserName(options.user());
            connect.setPassword(options.password().toCharArray());
        }
        if (options.willTopic() != null) connect.setWill(options.willTopic(), bytes(options.willPayload()), 1, false);
        try {
            IMqttToken token = mqtt.connect(connect);
            token.waitForCompletion(WAIT);
            sessionPresent = token.getSessionPresent();
        } catch (MqttException error) {
            // Up to 5 these are the CONNACK's own codes; the library's begin at 32000.
            if (error.getReasonCode() > 5) throw error;
            throw new Refused(error.getReasonCode());
        }
    }

    @Override
    void subscribe(String filter, int qos, int identifier) throws Exception {
        IMqttToken token = mqtt.subscribe(filter, qos);
        token.waitForCompletion(WAIT);
        Clients.equal(token.getGrantedQos()[0], qos, "SUBACK");
    }

    @Override
    void publish(String topic, byte[] payload, int qos, boolean retain, Properties none) throws Exception {
        retryWhenFull(() -> mqtt.publish(topic, payload, qos, retain)).waitForCompletion(WAIT);
    }

    private static IMqttToken retryWhenFull(Callable<IMqttToken> publish) throws Exception {
        for (long deadline = System.nanoTime() + WAIT * 1_000_000L; ; Thread.sleep(1)) {
            try {
                return publish.call();
            } catch (MqttException error) {
                // A completed token still counts as in flight until the library's callback thread comes to it.
                if (error.getReasonCode() != MqttException.REASON_CODE_MAX_INFLIGHT || System.nanoTime() > deadline) throw error;
            }
        }
    }

    @Override
    void close() throws Exception {
        mqtt.disconnect().waitForCompletion(WAIT);
        mqtt.close();
    }

    @Override
    public void connectionLost(Throwable cause) {
        ends.add(-1);
    }

    @Override
    public void messageArrived(String topic, MqttMessage message) {
        messages.add(new Message(topic, text(message.getPayload()), message.getQos(), message.isRetained()));
    }

    @Override
    public void deliveryComplete(IMqttDeliveryToken token) {}
}
