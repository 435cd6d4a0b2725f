import jakarta.websocket.ContainerProvider;
import jakarta.websocket.WebSocketContainer;
import java.lang.reflect.Type;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.logging.LogManager;
import org.springframework.messaging.simp.stomp.ReactorNettyTcpStompClient;
import org.springframework.messaging.simp.stomp.StompClientSupport;
import org.springframework.messaging.simp.stomp.StompCommand;
import org.springframework.messaging.simp.stomp.StompFrameHandler;
import org.springframework.messaging.simp.stomp.StompHeaders;
import org.springframework.messaging.simp.stomp.StompSession;
import org.springframework.messaging.simp.stomp.StompSessionHandlerAdapter;
import org.springframework.scheduling.concurrent.ThreadPoolTaskScheduler;
import org.springframework.web.socket.WebSocketHttpHeaders;
import org.springframework.web.socket.client.standard.StandardWebSocketClient;
import org.springframework.web.socket.messaging.WebSocketStompClient;

/** Spring's STOMP clients, over TCP (Reactor Netty) and WebSocket (Tomcat), against a broker. Prints a TAP line per scenario. */
public final class Clients {
    interface Scenario {
        void run(Door door) throws Exception;
    }

    /** How one gets a connection. */
    interface Door {
        Client open(StompHeaders headers) throws Exception;

        default Client open() throws Exception {
            return open(credentials("guest"));
        }
    }

    record Message(StompHeaders headers, byte[] body) {
        String text() {
            return Broker.text(body);
        }
    }

    static final int LARGEST = 8 << 20;
    static final Map<String, Scenario> SCENARIOS = new LinkedHashMap<>();
    static final ThreadPoolTaskScheduler CLOCK = new ThreadPoolTaskScheduler();

    static {
        SCENARIOS.put("receipts", Clients::receipts);
        SCENARIOS.put("acks", Clients::acks);
        SCENARIOS.put("heart-beat", Clients::heartBeat);
        SCENARIOS.put("topics", Clients::topics);
        SCENARIOS.put("large", Clients::large);
        SCENARIOS.put("errors", Clients::errors);
        SCENARIOS.put("restart-kill9", Clients::restart);
    }

    public static void main(String[] args) throws Exception {
        LogManager.getLogManager().reset();
        CLOCK.setDaemon(true);
        CLOCK.initialize();
        Set<String> chosen = new HashSet<>(Arrays.asList(args));
        boolean failed = false;
        Map<String, Door> doors = new LinkedHashMap<>();
        doors.put("tcp", Clients::overTcp);
        doors.put("ws", Clients::overWeb);
        for (Map.Entry<String, Door> door : doors.entrySet()) {
            for (Map.Entry<String, Scenario> scenario : SCENARIOS.entrySet()) {
                String name = door.getKey() + "/" + scenario.getKey();
                if (!chosen.isEmpty() && !chosen.contains(name)) {
                    continue;
                }
                try {
                    scenario.getValue().run(door.getValue());
                    System.out.println("ok - " + name);
                } catch (Throwable error) {
                    failed = true;
                    System.out.println("not ok - " + name + ": " + error.toString().replaceAll("\\s+", " "));
                    error.printStackTrace();
                }
            }
        }
        System.exit(failed ? 1 : 0);
    }

    static StompHeaders credentials(String password) {
        StompHeaders headers = new StompHeaders();
        headers.setHost("/");
        headers.setLogin("guest");
        headers.setPasscode(password);
        return headers;
    }

    static Client overTcp(StompHeaders headers) throws Exception {
        ReactorNettyTcpStompClient stomp = new ReactorNettyTcpStompClient(Broker.HOST, Broker.PORT);
        Client client = new Client(stomp, stomp::shutdown);
        return client.connected(stomp.connectAsync(headers, client));
    }

    static Client overWeb(StompHeaders headers) throws Exception {
        WebSocketContainer container = ContainerProvider.getWebSocketContainer();
        container.setDefaultMaxTextMessageBufferSize(LARGEST);
        container.setDefaultMaxBinaryMessageBufferSize(LARGEST);
        WebSocketStompClient stomp = new WebSocketStompClient(new StandardWebSocketClient(container));
        stomp.setInboundMessageSizeLimit(LARGEST);
        Client client = new Client(stomp, stomp::stop);
        return client.connected(stomp.connectAsync(System.getenv("WEB_STOMP_URL"), new WebSocketHttpHeaders(), headers, client));
    }

    static final class Client extends StompSessionHandlerAdapter implements AutoCloseable {
        final BlockingQueue<Message> messages = new LinkedBlockingQueue<>();
        final BlockingQueue<Message> errors = new LinkedBlockingQueue<>();
        final BlockingQueue<Throwable> lost = new LinkedBlockingQueue<>();
        final StompClientSupport stomp;
        final Runnable stop;
        StompSession session;

        Client(StompClientSupport stomp, Runnable stop) {
            this.stomp = stomp;
            this.stop = stop;
            stomp.setReceiptTimeLimit(TimeUnit.SECONDS.toMillis(Broker.WAIT_SECS));
            if (stomp instanceof ReactorNettyTcpStompClient tcp) {
                tcp.setTaskScheduler(CLOCK);
            } else if (stomp instanceof WebSocketStompClient web) {
                web.setTaskScheduler(CLOCK);
            }
        }

        Client connected(CompletableFuture<StompSession> session) throws Exception {
            try {
                this.session = session.get(Broker.WAIT_SECS, TimeUnit.SECONDS);
            } catch (ExecutionException error) {
                // Not let in: what the broker said of it is among the errors.
                stop.run();
            }
            return this;
        }

        @Override
        public Type getPayloadType(StompHeaders headers) {
            return byte[].class;
        }

        @Override
        public void handleFrame(StompHeaders headers, Object payload) {
            errors.add(new Message(headers, (byte[]) payload));
        }

        @Override
        public void handleException(
                StompSession session, StompCommand command, StompHeaders headers, byte[] payload, Throwable error) {
            error.printStackTrace();
        }

        @Override
        public void handleTransportError(StompSession session, Throwable error) {
            lost.add(error);
        }

        void send(String destination, byte[] body, String... more) throws Exception {
            StompHeaders headers = new StompHeaders();
            headers.setDestination(destination);
            headers.setReceipt(UUID.randomUUID().toString());
            headers.set("persistent", "true");
            for (int n = 0; n < more.length; n += 2) {
                headers.set(more[n], more[n + 1]);
            }
            confirmed(session.send(headers, body));
        }

        void send(String destination, String body, String... more) throws Exception {
            send(destination, Broker.bytes(body), more);
        }

        void confirmed(StompSession.Receiptable what) throws Exception {
            CountDownLatch done = new CountDownLatch(1);
            what.addReceiptTask(done::countDown);
            Broker.check(done.await(Broker.WAIT_SECS, TimeUnit.SECONDS), "a receipt did not come");
        }

        StompSession.Subscription subscribe(String destination, String ack, String... more) throws Exception {
            StompHeaders headers = new StompHeaders();
            headers.setDestination(destination);
            headers.setAck(ack);
            headers.setReceipt(UUID.randomUUID().toString());
            for (int n = 0; n < more.length; n += 2) {
                headers.set(more[n], more[n + 1]);
            }
            StompSession.Subscription subscription = session.subscribe(headers, new StompFrameHandler() {
                @Override
                public Type getPayloadType(StompHeaders headers) {
                    return byte[].class;
                }

                @Override
                public void handleFrame(StompHeaders headers, Object payload) {
                    messages.add(new Message(headers, (byte[]) payload));
                }
            });
            confirmed(subscription);
            return subscription;
        }

        Message take() throws Exception {
            return Broker.next(messages, "a message");
        }

        void nothing() throws Exception {
            Message message = messages.poll(300, TimeUnit.MILLISECONDS);
            Broker.check(message == null, "nothing was to come, but " + (message == null ? "" : message.text()));
        }

        @Override
        public void close() {
            if (session != null && session.isConnected()) {
                session.disconnect();
            }
            stop.run();
        }
    }

    static void equal(Object got, Object wanted) {
        Broker.equal(got, wanted, "what came");
    }

    static String name(String what) {
        return "/queue/spring-" + what + "-" + UUID.randomUUID();
    }

    /** 100 persistent messages with a receipt each, in order, with their headers. */
    static void receipts(Door door) throws Exception {
        String queue = name("receipts");
        try (Client client = door.open()) {
            for (int n = 0; n < 100; n++) {
                client.send(queue, "message " + n, "content-type", "text/plain;charset=UTF-8", "colon", "a:b\nc\\");
            }
            client.subscribe(queue, "auto");
            for (int n = 0; n < 100; n++) {
                Message message = client.take();
                equal(message.text(), "message " + n);
                equal(message.headers().getFirst("colon"), "a:b\nc\\");
                equal(message.headers().getDestination(), queue);
            }
            client.nothing();
        }
    }

    /** One is acknowledged, one given back, and one is in the hands of a client that goes. */
    static void acks(Door door) throws Exception {
        String queue = name("acks");
        try (Client second = door.open()) {
            try (Client first = door.open()) {
                first.subscribe(queue, "client-individual", "prefetch-count", "3");
                for (String body : List.of("one", "two", "three", "four")) {
                    second.send(queue, body);
                }
                List<Message> held = new ArrayList<>(List.of(first.take(), first.take(), first.take()));
                first.nothing();
                first.session.acknowledge(held.get(0).headers().getAck(), true);
                equal(first.take().text(), "four");
                first.session.acknowledge(held.get(1).headers().getAck(), false);
                Message again = first.take();
                equal(List.of(again.text(), again.headers().getFirst("redelivered")), List.of("two", "true"));
            }
            second.subscribe(queue, "auto");
            equal(List.of(second.take().text(), second.take().text(), second.take().text()), List.of("two", "three", "four"));
            second.nothing();
        }
    }

    /** Both ways, every second, and still there after 4 s. */
    static void heartBeat(Door door) throws Exception {
        String queue = name("heart-beat");
        StompHeaders headers = credentials("guest");
        headers.setHeartbeat(new long[] {1000, 1000});
        try (Client client = door.open(headers)) {
            client.subscribe(queue, "auto");
            Thread.sleep(4000);
            Broker.check(client.session.isConnected() && client.lost.isEmpty(), "the connection was lost");
            client.send(queue, "alive");
            equal(client.take().text(), "alive");
        }
    }

    static void topics(Door door) throws Exception {
        String word = UUID.randomUUID().toString();
        try (Client client = door.open()) {
            client.subscribe("/topic/" + word + ".*.news", "auto");
            StompSession.Subscription all = client.subscribe("/topic/" + word + ".#", "auto");
            client.send("/topic/" + word + ".eu.news", "both");
            equal(List.of(client.take().text(), client.take().text()), List.of("both", "both"));
            client.send("/topic/" + word + ".eu", "one");
            equal(client.take().text(), "one");
            all.unsubscribe();
            client.send("/topic/" + word + ".eu", "none");
            client.nothing();
        }
    }

    static void large(Door door) throws Exception {
        String queue = name("large");
        byte[] body = Broker.pattern(3 << 20);
        try (Client client = door.open()) {
            client.subscribe(queue, "auto");
            client.send(queue, body, "content-type", "application/octet-stream");
            Broker.check(Arrays.equals(client.take().body(), body), "other bytes came");
        }
    }

    /** An ERROR in the broker's words ends the connection; a wrong password does not let in. */
    static void errors(Door door) throws Exception {
        try (Client client = door.open()) {
            client.session.send("/nowhere/at/all", new byte[0]);
            Message error = Broker.next(client.errors, "an ERROR");
            equal(error.headers().getFirst("message"), "Unknown destination");
            Broker.next(client.lost, "the end of the connection");
        }
        try (Client client = door.open(credentials("wrong"))) {
            Broker.check(client.session == null, "a wrong password was let in");
        }
    }

    static void restart(Door door) throws Exception {
        String queue = name("restart");
        try (Client client = door.open()) {
            for (int n = 0; n < 50; n++) {
                client.send(queue, "kept " + n);
            }
            Broker.control("kill9");
            Broker.next(client.lost, "the end of the connection");
        }
        try (Client client = door.open()) {
            client.subscribe(queue, "auto");
            for (int n = 0; n < 50; n++) {
                equal(client.take().text(), "kept " + n);
            }
            client.nothing();
        }
    }
}
