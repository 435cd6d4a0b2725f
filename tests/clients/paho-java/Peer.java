import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import javax.net.SocketFactory;

/** One connection, the same for both libraries; what it receives waits in a queue. */
abstract class Peer {
    static final int WAIT = 10_000;
    static final String END = "end";

    /** A payload's bytes stand in a string, one character each, so that records compare. */
    record Message(String topic, String payload, int qos, boolean retain) {}

    record Pair(String name, String value) {}

    record Properties(boolean format, long expiry, String contentType, String response, String correlation, List<Pair> user, List<Integer> identifiers) {}

    record Options(boolean keep, String user, String password, String willTopic, String willPayload) {
        static Options guest() {
            return new Options(false, env("MQTT_USER"), env("MQTT_PASSWORD"), null, null);
        }

        static Options kept() {
            return new Options(true, env("MQTT_USER"), env("MQTT_PASSWORD"), null, null);
        }

        Options will(String topic, String payload) {
            return new Options(keep, user, password, topic, payload);
        }
    }

    /** The CONNACK's code when the broker says no. */
    static final class Refused extends Exception {
        private static final long serialVersionUID = 1;
        final int code;

        Refused(int code) {
            super("CONNACK " + code);
            this.code = code;
        }
    }

    final BlockingQueue<Message> messages = new LinkedBlockingQueue<>();
    final BlockingQueue<Properties> properties = new LinkedBlockingQueue<>();
    /** The reason of the server's DISCONNECT, or -1 for an end without one. */
    final BlockingQueue<Integer> ends = new LinkedBlockingQueue<>();
    final Recorder sockets = new Recorder();
    boolean sessionPresent;

    abstract void subscribe(String filter, int qos, int identifier) throws Exception;

    abstract void publish(String topic, byte[] payload, int qos, boolean retain, Properties properties) throws Exception;

    abstract void close() throws Exception;

    static Peer open(int version, String name, Options options) throws Exception {
        return version == 5 ? new PeerV5(name, options) : new PeerV3(name, options);
    }

    void subscribe(String filter, int qos) throws Exception {
        subscribe(filter, qos, 0);
    }

    void publish(String topic, String payload, int qos) throws Exception {
        publish(topic, bytes(payload), qos, false, null);
    }

    void retain(String topic, String payload, int qos) throws Exception {
        publish(topic, bytes(payload), qos, true, null);
    }

    /** Closes the socket with no DISCONNECT, as a crash does. */
    void cut() throws IOException {
        sockets.last.close();
    }

    Message receive() throws InterruptedException {
        return take(messages, "message");
    }

    List<Message> receive(int count) throws InterruptedException {
        List<Message> got = new ArrayList<>();
        while (got.size() < count) got.add(receive());
        return got;
    }

    /** All up to the marker that the test publishes last. */
    List<Message> receiveToEnd() throws InterruptedException {
        List<Message> got = new ArrayList<>();
        for (Message next = receive(); !next.payload.equals(END); next = receive()) got.add(next);
        return got;
    }

    static <T> T take(BlockingQueue<T> queue, String what) throws InterruptedException {
        T value = queue.poll(WAIT, TimeUnit.MILLISECONDS);
        if (value == null) throw new AssertionError("no " + what + " within " + WAIT + " ms");
        return value;
    }

    static byte[] bytes(String payload) {
        return payload.getBytes(StandardCharsets.ISO_8859_1);
    }

    static String text(byte[] payload) {
        return new String(payload, StandardCharsets.ISO_8859_1);
    }

    static String env(String name) {
        String value = System.getenv(name);
        if (value == null) throw new IllegalStateException(name + " is not set");
        return value;
    }

    static String uri() {
        return "tcp://" + env("MQTT_HOST") + ":" + env("MQTT_PORT");
    }

    /** Asks the runner to restart the broker. */
    static void control(String command) throws IOException {
        String[] address = env("MQTT_CONTROL").split(":");
        try (Socket socket = new Socket(address[0], Integer.parseInt(address[1]))) {
            socket.setSoTimeout(60_000);
            socket.getOutputStream().write((command + "\n").getBytes(StandardCharsets.US_ASCII));
            String answer = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8)).readLine();
            if (!"ok".equals(answer)) throw new AssertionError(command + ": " + answer);
        }
    }

    /** Remembers the socket it made, to cut it. */
    static final class Recorder extends SocketFactory {
        volatile Socket last;

        @Override
        public Socket createSocket() {
            last = new Socket();
            return last;
        }

        @Override
        public Socket createSocket(String host, int port) throws IOException {
            last = new Socket(host, port);
            return last;
        }

        @Override
        public Socket createSocket(String host, int port, InetAddress local, int localPort) throws IOException {
            return createSocket(host, port);
        }

        @Override
        public Socket createSocket(InetAddress host, int port) throws IOException {
            last = new Socket(host, port);
            return last;
        }

        @Override
        public Socket createSocket(InetAddress host, int port, InetAddress local, int localPort) throws IOException {
            return createSocket(host, port);
        }
    }
}
