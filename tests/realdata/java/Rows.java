import java.io.FileOutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.eclipse.paho.client.mqttv3.IMqttDeliveryToken;
import org.eclipse.paho.client.mqttv3.MqttAsyncClient;
import org.eclipse.paho.client.mqttv3.MqttCallbackExtended;
import org.eclipse.paho.client.mqttv3.MqttConnectOptions;
import org.eclipse.paho.client.mqttv3.MqttException;
import org.eclipse.paho.client.mqttv3.MqttMessage;
import org.eclipse.paho.client.mqttv3.MqttPersistenceException;
import org.eclipse.paho.client.mqttv3.persist.MqttDefaultFilePersistence;

/**
 * Rows of files at QoS 2 with Eclipse Paho's own client, its file store and its automatic reconnection; nothing here looks for
 * duplicates or gaps.
 *
 * <pre>
 * Rows publish URI STORE FILE...       every line of every file, its end of line included, to rows/NAME
 * Rows subscribe URI STORE DIR TOTAL   writes each payload to DIR/NAME as it comes; ends when TOTAL came and then nothing for 2 s
 * </pre>
 */
public final class Rows {
    private static final int WINDOW = 50;
    private static final int WAIT_MS = 30_000;
    private static final long QUIET_NS = 2_000_000_000L;
    private static final long GIVE_UP_NS = 60_000_000_000L;

    public static void main(String[] args) throws Exception {
        List<String> rest = List.of(args).subList(3, args.length);
        MqttAsyncClient client = new MqttAsyncClient(args[1], "rows-" + args[0], new OpenStore(args[2]));
        if (args[0].equals("publish")) publish(client, rest);
        else subscribe(client, Path.of(rest.get(0)), Long.parseLong(rest.get(1)));
        System.exit(0);
    }

    private static MqttConnectOptions options() {
        MqttConnectOptions options = new MqttConnectOptions();
        options.setCleanSession(false);
        options.setAutomaticReconnect(true);
        options.setMaxReconnectDelay(1000);
        options.setMaxInflight(WINDOW);
        return options;
    }

    private static void publish(MqttAsyncClient client, List<String> files) throws Exception {
        client.setCallback(new Quiet() {});
        client.connect(options()).waitForCompletion(WAIT_MS);
        long sent = 0;
        for (String file : files) {
            byte[] bytes = Files.readAllBytes(Path.of(file));
            String topic = "rows/" + Path.of(file).getFileName();
            for (int from = 0; from < bytes.length; ) {
                int to = from;
                while (to < bytes.length && bytes[to] != '\n') to++;
                to = Math.min(to + 1, bytes.length);
                byte[] row = java.util.Arrays.copyOfRange(bytes, from, to);
                send(client, topic, row);
                sent++;
                from = to;
            }
        }
        // Not getInFlightMessageCount(): a CONNACK sets that counter to 0 and the PUBCOMPs of PUBRELs that are sent again count it down all
        // the same, so that it says 0 or less while thousands of rows still wait in the client (Paho 1.2.5, ClientState).
        int left = Integer.MAX_VALUE;
        for (long moved = System.nanoTime(); ; Thread.sleep(50)) {
            int now = client.getPendingDeliveryTokens().length;
            if (now == 0) break;
            if (now < left) moved = System.nanoTime();
            left = Math.min(now, left);
            if (System.nanoTime() - moved > GIVE_UP_NS) throw new IllegalStateException(now + " rows are not complete");
        }
        // Nothing is left to wait for, and the wait of its own goes by the same counter.
        client.disconnect(0).waitForCompletion(WAIT_MS);
        System.out.println("published " + sent);
    }

    private static void send(MqttAsyncClient client, String topic, byte[] row) throws Exception {
        for (long deadline = System.nanoTime() + GIVE_UP_NS; ; Thread.sleep(1)) {
            try {
                client.publish(topic, row, 2, false);
                return;
            } catch (MqttException error) {
                // Refused before the client took it (ClientComms.internalSend undoes what it had stored): the window is full, or there is
                // no connection. Everything that it took, it keeps in its store and finishes on a later connection.
                boolean later = switch (error.getReasonCode()) {
                    case MqttException.REASON_CODE_MAX_INFLIGHT, MqttException.REASON_CODE_CLIENT_NOT_CONNECTED,
                        MqttException.REASON_CODE_CLIENT_DISCONNECTING, MqttException.REASON_CODE_CONNECT_IN_PROGRESS -> true;
                    default -> false;
                };
                if (!later || System.nanoTime() > deadline) throw error;
            }
        }
    }

    private static void subscribe(MqttAsyncClient client, Path out, long total) throws Exception {
        AtomicLong arrived = new AtomicLong();
        AtomicLong last = new AtomicLong(System.nanoTime());
        Map<String, FileOutputStream> files = new HashMap<>();
        client.setCallback(new Quiet() {
            @Override
            public void messageArrived(String topic, MqttMessage message) throws Exception {
                String name = topic.substring(topic.lastIndexOf('/') + 1);
                FileOutputStream file = files.get(name);
                if (file == null) files.put(name, file = new FileOutputStream(out.resolve(name).toFile()));
                file.write(message.getPayload());
                last.set(System.nanoTime());
                long count = arrived.incrementAndGet();
                if (count % 100 == 0) System.out.println("arrived " + count);
            }
        });
        client.connect(options()).waitForCompletion(WAIT_MS);
        client.subscribe("rows/#", 2).waitForCompletion(WAIT_MS);
        System.out.println("subscribed");
        while (true) {
            long quiet = System.nanoTime() - last.get();
            if (arrived.get() >= total && quiet > QUIET_NS) break;
            if (quiet > GIVE_UP_NS) throw new IllegalStateException(arrived + " of " + total + " rows, and nothing more comes");
            Thread.sleep(20);
        }
        for (FileOutputStream file : files.values()) file.close();
        System.out.println("arrived " + arrived);
    }

    /**
     * Paho's file store, left open from the first connection to the end. Paho 1.2.5 closes it when a connection is lost and does not wait
     * for the thread that hands messages out (CommsCallback.stop waits for nothing): if the store closes between an application's return from
     * messageArrived and the removal of that message (ClientState.deliveryComplete), the removal fails and Paho hands the same message
     * out again at the PUBREL of the next connection.
     */
    private static final class OpenStore extends MqttDefaultFilePersistence {
        private boolean opened;

        OpenStore(String directory) {
            super(directory);
        }

        @Override
        public synchronized void open(String clientId, String uri) throws MqttPersistenceException {
            if (!opened) super.open(clientId, uri);
            opened = true;
        }

        @Override
        public void close() {}
    }

    private abstract static class Quiet implements MqttCallbackExtended {
        @Override
        public void connectComplete(boolean reconnect, String uri) {
            if (reconnect) System.out.println("reconnected");
        }

        @Override
        public void connectionLost(Throwable cause) {}

        @Override
        public void messageArrived(String topic, MqttMessage message) throws Exception {}

        @Override
        public void deliveryComplete(IMqttDeliveryToken token) {}
    }
}
