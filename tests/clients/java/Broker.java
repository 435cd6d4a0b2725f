import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.TimeUnit;

/** Where the broker is, and what every scenario of the Java programs needs. */
final class Broker {
    /** What this program speaks: the runner tells a program of one door. */
    private static final String DOOR = System.getenv("AMQP_PORT") == null ? "STOMP" : "AMQP";
    static final String HOST = System.getenv().getOrDefault(DOOR + "_HOST", "127.0.0.1");
    static final int PORT = Integer.parseInt(System.getenv(DOOR + "_PORT"));
    static final int WAIT_SECS = 20;

    private Broker() {}

    /** The broker goes down and comes back on the same port and store. */
    static void control(String command) throws IOException {
        String[] address = System.getenv(DOOR + "_CONTROL").split(":");
        try (Socket line = new Socket(address[0], Integer.parseInt(address[1]))) {
            line.getOutputStream().write((command + "\n").getBytes(StandardCharsets.UTF_8));
            BufferedReader answers = new BufferedReader(new InputStreamReader(line.getInputStream(), StandardCharsets.UTF_8));
            equal(answers.readLine(), "ok", "the answer to " + command);
        }
    }

    /** AMQP frames that are cut short, and a header of something else, on sockets of their own. */
    static void misbehave() throws IOException {
        try (Socket raw = new Socket(HOST, PORT)) {
            raw.getOutputStream().write(new byte[] {'A', 'M', 'Q', 'P', 0, 0, 9, 1, 1, 0, 0});
        }
        try (Socket wrong = new Socket(HOST, PORT)) {
            wrong.setSoTimeout(WAIT_SECS * 1000);
            wrong.getOutputStream().write("GET / HTTP/1.1\r\n".getBytes(StandardCharsets.UTF_8));
            equal(Arrays.toString(wrong.getInputStream().readNBytes(8)), "[65, 77, 81, 80, 0, 0, 9, 1]", "header");
        }
    }

    static String name(String what) {
        return "java." + what + "." + UUID.randomUUID().toString().substring(0, 8);
    }

    static byte[] bytes(Object text) {
        return String.valueOf(text).getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    static byte[] pattern(int size) {
        byte[] body = new byte[size];
        for (int i = 0; i < size; i++) body[i] = (byte) (i * 31 + i / 256);
        return body;
    }

    static <T> T next(BlockingQueue<T> queue, String what) throws InterruptedException {
        T next = queue.poll(WAIT_SECS, TimeUnit.SECONDS);
        check(next != null, what + " did not come");
        return next;
    }

    static void check(boolean condition, String complaint) {
        if (!condition) throw new AssertionError(complaint);
    }

    static void equal(Object got, Object wanted, String what) {
        check(wanted == null ? got == null : wanted.equals(got), what + ": " + got + " instead of " + wanted);
    }
}
