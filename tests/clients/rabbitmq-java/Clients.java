import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.BuiltinExchangeType;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.MessageProperties;
import com.rabbitmq.client.Recoverable;
import com.rabbitmq.client.RecoveryListener;
import com.rabbitmq.client.Return;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcClientParams;
import com.rabbitmq.client.RpcServer;
import com.rabbitmq.client.ShutdownSignalException;
import com.rabbitmq.client.impl.CredentialsProvider;
import com.rabbitmq.client.impl.CredentialsRefreshService;
import com.rabbitmq.client.impl.DefaultCredentialsRefreshService;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.IntStream;

/** RabbitMQ's own client for Java against a broker. Prints a TAP line per scenario. */
public final class Clients {
    interface Scenario {
        void run() throws Exception;
    }

    static final Map<String, Scenario> SCENARIOS = new LinkedHashMap<>();
    static final long WAIT_MS = Broker.WAIT_SECS * 1000L;

    static {
        SCENARIOS.put("confirms", Clients::confirms);
        SCENARIOS.put("consume-ack", Clients::consumeAck);
        SCENARIOS.put("redelivery", Clients::redelivery);
        SCENARIOS.put("mandatory", Clients::mandatory);
        SCENARIOS.put("dead-letter", Clients::deadLetter);
        SCENARIOS.put("ttl", Clients::ttl);
        SCENARIOS.put("server-named", Clients::serverNamed);
        SCENARIOS.put("rpc", Clients::rpc);
        SCENARIOS.put("large", Clients::large);
        SCENARIOS.put("properties", Clients::properties);
        SCENARIOS.put("tx", Clients::tx);
        SCENARIOS.put("cancel-notify", Clients::cancelNotify);
        SCENARIOS.put("channel-error", Clients::channelError);
        SCENARIOS.put("wrong-password", Clients::wrongPassword);
        SCENARIOS.put("update-secret", Clients::updateSecret);
        SCENARIOS.put("clean-close", Clients::cleanClose);
        SCENARIOS.put("dirty-close", Clients::dirtyClose);
        SCENARIOS.put("restart-kill9", Clients::restart);
    }

    static ConnectionFactory factory() {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setHost(Broker.HOST);
        factory.setPort(Broker.PORT);
        factory.setAutomaticRecoveryEnabled(false);
        factory.setConnectionTimeout((int) WAIT_MS);
        factory.setChannelRpcTimeout((int) WAIT_MS);
        return factory;
    }

    static Connection connect() throws Exception {
        return factory().newConnection();
    }

    /** Deliveries of a consumer, which are left to the caller to acknowledge. */
    static BlockingQueue<Delivery> consume(Channel channel, String queue, boolean autoAck) throws IOException {
        BlockingQueue<Delivery> got = new LinkedBlockingQueue<>();
        channel.basicConsume(queue, autoAck, (tag, delivery) -> got.add(delivery), tag -> {});
        return got;
    }

    static void confirms() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = Broker.name("confirms");
            channel.queueDeclare(queue, true, false, false, null);
            channel.confirmSelect();
            AtomicLong acked = new AtomicLong();
            channel.addConfirmListener((tag, multiple) -> acked.set(tag), (tag, multiple) -> acked.set(-1));
            for (int n = 0; n < 100; n++) channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, Broker.bytes(n));
            channel.waitForConfirmsOrDie(WAIT_MS);
            Broker.equal(acked.get(), 100L, "the last confirm");
            Broker.equal(channel.messageCount(queue), 100L, "messages");
            channel.queueDelete(queue);

            String full = channel.queueDeclare("", false, true, true, Map.of("x-max-length", 1, "x-overflow", "reject-publish")).getQueue();
            channel.basicPublish("", full, null, Broker.bytes("1"));
            Broker.check(channel.waitForConfirms(WAIT_MS), "the first was refused");
            channel.basicPublish("", full, null, Broker.bytes("2"));
            Broker.check(!channel.waitForConfirms(WAIT_MS), "the second was taken");
        }
    }

    static void consumeAck() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = Broker.name("consume");
            channel.queueDeclare(queue, true, false, false, null);
            for (int n = 0; n < 200; n++) channel.basicPublish("", queue, null, Broker.bytes(n));
            channel.basicQos(10);
            BlockingQueue<Delivery> got = consume(channel, queue, false);
            List<Integer> bodies = new ArrayList<>();
            while (bodies.size() < 200) {
                Delivery delivery = Broker.next(got, "a message");
                Broker.check(got.size() < 10, "more than the prefetch");
                bodies.add(Integer.parseInt(Broker.text(delivery.getBody())));
                // One by one, or ten at once.
                if (bodies.size() <= 100) channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
                else if (bodies.size() % 10 == 0) channel.basicAck(delivery.getEnvelope().getDeliveryTag(), true);
            }
            Broker.equal(bodies, IntStream.range(0, 200).boxed().toList(), "bodies");
            Broker.equal(channel.messageCount(queue), 0L, "messages left");
            channel.queueDelete(queue);
        }
    }

    static void redelivery() throws Exception {
        String queue = Broker.name("redelivery");
        List<java.net.Socket> sockets = new ArrayList<>();
        ConnectionFactory factory = factory();
        factory.setSocketConfigurator(sockets::add);
        Connection first = factory.newConnection();
        Channel channel = first.createChannel();
        channel.queueDeclare(queue, false, false, false, null);
        channel.basicPublish("", queue, null, Broker.bytes("again"));
        Broker.check(!channel.basicGet(queue, false).getEnvelope().isRedeliver(), "redelivered at once");
        // The connection is lost with the delivery in hand.
        sockets.get(0).close();
        try (Connection second = connect()) {
            channel = second.createChannel();
            Delivery delivery = Broker.next(consume(channel, queue, false), "the message");
            Broker.check(delivery.getEnvelope().isRedeliver(), "not marked");
            channel.basicNack(delivery.getEnvelope().getDeliveryTag(), false, false);
            channel.basicPublish("", queue, null, Broker.bytes("once more"));
            channel.close();
            channel = second.createChannel();
            // Whether the consumer had it already or not: it is there, for the next channel.
            GetResponse again = channel.basicGet(queue, false);
            Broker.equal(Broker.text(again.getBody()), "once more", "body");
            channel.basicReject(again.getEnvelope().getDeliveryTag(), true);
            again = channel.basicGet(queue, false);
            Broker.check(again.getEnvelope().isRedeliver(), "not marked after a reject");
            channel.basicReject(again.getEnvelope().getDeliveryTag(), false);
            Broker.equal(channel.basicGet(queue, false), null, "what is left");
            channel.queueDelete(queue);
        }
        first.abort();
    }

    static void mandatory() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            BlockingQueue<Return> returned = new LinkedBlockingQueue<>();
            channel.addReturnListener((Return back) -> returned.add(back));
            channel.confirmSelect();
            String nobody = Broker.name("nobody");
            channel.basicPublish("", nobody, true, null, Broker.bytes("back"));
            channel.basicPublish("", nobody, false, null, Broker.bytes("gone"));
            channel.waitForConfirmsOrDie(WAIT_MS);
            Return back = Broker.next(returned, "the return");
            Broker.equal(back.getReplyCode() + back.getReplyText() + Broker.text(back.getBody()), "312NO_ROUTEback", "return");
            Broker.check(returned.isEmpty(), "more than one");
        }
    }

    static void deadLetter() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String source = Broker.name("source");
            String dead = channel.queueDeclare().getQueue();
            String exchange = Broker.name("dlx");
            channel.exchangeDeclare(exchange, BuiltinExchangeType.FANOUT, false, true, null);
            channel.queueBind(dead, exchange, "");
            channel.queueDeclare(source, false, true, false, Map.of("x-dead-letter-exchange", exchange, "x-message-ttl", 1));
            AMQP.BasicProperties mine = new AMQP.BasicProperties.Builder().headers(Map.of("mine", "kept")).build();
            channel.basicPublish("", source, mine, Broker.bytes("late"));
            Delivery delivery = Broker.next(consume(channel, dead, true), "the dead letter");
            Map<String, Object> headers = delivery.getProperties().getHeaders();
            Map<?, ?> death = (Map<?, ?>) ((List<?>) headers.get("x-death")).get(0);
            Broker.equal(Broker.text(delivery.getBody()) + headers.get("mine"), "latekept", "message");
            Broker.equal(death.get("reason") + " " + death.get("queue") + " " + death.get("count"), "expired " + source + " 1", "x-death");
            Broker.equal(death.get("routing-keys").toString(), "[" + source + "]", "keys");
            Broker.equal(headers.get("x-first-death-reason").toString(), "expired", "first reason");
        }
    }

    static void ttl() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = channel.queueDeclare().getQueue();
            channel.basicPublish("", queue, new AMQP.BasicProperties.Builder().expiration("100").build(), Broker.bytes("short"));
            channel.basicPublish("", queue, new AMQP.BasicProperties.Builder().expiration("60000").build(), Broker.bytes("long"));
            Thread.sleep(2200);
            GetResponse message = channel.basicGet(queue, true);
            Broker.equal(Broker.text(message.getBody()) + message.getProps().getExpiration(), "long60000", "message");
        }
    }

    static void serverNamed() throws Exception {
        String queue;
        try (Connection connection = connect(); Connection other = connect()) {
            Channel channel = connection.createChannel();
            queue = channel.queueDeclare().getQueue();
            Broker.check(queue.startsWith("amq.gen-"), queue);
            channel.queueBind(queue, "amq.topic", "a.*");
            channel.basicPublish("amq.topic", "a.b", null, Broker.bytes("routed"));
            channel.basicPublish("amq.topic", "a.b.c", null, Broker.bytes("not"));
            Delivery delivery = Broker.next(consume(channel, queue, true), "the message");
            Broker.equal(delivery.getEnvelope().getRoutingKey() + Broker.text(delivery.getBody()), "a.brouted", "message");
            equalCode(405, () -> other.createChannel().queueDeclarePassive(queue));
        }
        try (Connection connection = connect()) {
            equalCode(404, () -> connection.createChannel().queueDeclarePassive(queue));
        }
    }

    /** The code with which the broker closes a channel for it. */
    static void equalCode(int code, Scenario scenario) throws Exception {
        try {
            scenario.run();
        } catch (IOException | AlreadyClosedException error) {
            ShutdownSignalException why = (ShutdownSignalException) (error.getCause() == null ? error : error.getCause());
            Broker.equal(((AMQP.Channel.Close) why.getReason()).getReplyCode(), code, "reply code");
            return;
        }
        throw new AssertionError("no error " + code);
    }

    /** RpcClient asks by direct reply-to, and RpcServer answers. */
    static void rpc() throws Exception {
        try (Connection serving = connect(); Connection asking = connect()) {
            Channel channel = serving.createChannel();
            String queue = channel.queueDeclare().getQueue();
            RpcServer server = new RpcServer(channel, queue) {
                @Override
                public byte[] handleCall(Delivery request, AMQP.BasicProperties reply) {
                    Broker.check(request.getProperties().getReplyTo().startsWith("amq.rabbitmq.reply-to."), "no direct reply-to");
                    return Broker.bytes("answer to " + Broker.text(request.getBody()));
                }
            };
            Thread loop = new Thread(() -> {
                try {
                    server.mainloop();
                } catch (IOException | ShutdownSignalException ended) {
                    // With its channel.
                }
            });
            loop.start();
            RpcClientParams params = new RpcClientParams();
            params.channel(asking.createChannel()).exchange("").routingKey(queue).timeout((int) WAIT_MS);
            RpcClient client = new RpcClient(params);
            for (int n = 0; n < 20; n++) Broker.equal(client.stringCall("question " + n), "answer to question " + n, "answer");
            client.close();
            server.close();
            loop.join(WAIT_MS);
        }
    }

    static void large() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = channel.queueDeclare().getQueue();
            channel.confirmSelect();
            for (int size : new int[] {0, 131_064, 131_065, 1 << 20, 5_000_000}) {
                byte[] body = Broker.pattern(size);
                channel.basicPublish("", queue, null, body);
                channel.waitForConfirmsOrDie(WAIT_MS);
                Broker.check(Arrays.equals(channel.basicGet(queue, true).getBody(), body), size + " bytes came back as others");
            }
        }
    }

    static void properties() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = channel.queueDeclare().getQueue();
            Map<String, Object> headers = new LinkedHashMap<>();
            headers.put("int", -5);
            headers.put("long", 1L << 40);
            headers.put("short", (short) 7);
            headers.put("byte", (byte) -1);
            headers.put("bool", true);
            headers.put("double", 0.5);
            headers.put("float", 0.25f);
            headers.put("date", new Date(1_700_000_000_000L));
            headers.put("none", null);
            headers.put("decimal", new java.math.BigDecimal("12.34"));
            headers.put("list", List.of(1, 2L));
            headers.put("table", Map.of("in", 1));
            AMQP.BasicProperties sent = new AMQP.BasicProperties("text/plain", "none", headers, 2, 3, "c", "r", "60000", "m",
                new Date(1_700_000_000_000L), "t", "guest", "a", null);
            channel.basicPublish("", queue, sent, Broker.bytes("all"));
            AMQP.BasicProperties back = channel.basicGet(queue, true).getProps();
            Broker.equal(back.getHeaders(), headers, "headers");
            Broker.equal(back.builder().headers(null).build().toString(), sent.builder().headers(null).build().toString(), "properties");
        }
    }

    static void tx() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = Broker.name("tx");
            channel.queueDeclare(queue, true, false, false, null);
            channel.txSelect();
            channel.basicPublish("", queue, null, Broker.bytes("no"));
            channel.txRollback();
            channel.basicPublish("", queue, null, Broker.bytes("yes"));
            channel.txCommit();
            GetResponse message = channel.basicGet(queue, false);
            Broker.equal(Broker.text(message.getBody()) + message.getMessageCount(), "yes0", "message");
            channel.basicAck(message.getEnvelope().getDeliveryTag(), false);
            channel.txRollback();
            channel.basicAck(message.getEnvelope().getDeliveryTag(), false);
            channel.txCommit();
            channel.queueDelete(queue);
        }
    }

    static void cancelNotify() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = Broker.name("cancelled");
            channel.queueDeclare(queue, false, false, false, null);
            BlockingQueue<String> cancelled = new LinkedBlockingQueue<>();
            String tag = channel.basicConsume(queue, (of, delivery) -> {}, cancelled::add);
            connection.createChannel().queueDelete(queue);
            Broker.equal(Broker.next(cancelled, "the notice"), tag, "tag");
        }
    }

    static void channelError() throws Exception {
        try (Connection connection = connect()) {
            Channel other = connection.createChannel();
            equalCode(404, () -> connection.createChannel().queueDeclarePassive(Broker.name("nope")));
            String queue = Broker.name("mine");
            other.queueDeclare(queue, false, true, false, null);
            equalCode(406, () -> connection.createChannel().queueDeclare(queue, true, true, true, null));
            equalCode(403, () -> connection.createChannel().queueDeclare("amq.mine", true, true, true, null));
            equalCode(406, () -> {
                Channel bad = connection.createChannel();
                bad.basicAck(99, false);
                bad.queueDeclarePassive(queue);
            });
            // The connection and its other channel go on.
            Broker.equal(other.messageCount(queue), 0L, "messages");
        }
    }

    /** Credentials that expire are asked for anew and sent along while the connection is open (connection.update-secret). */
    static void updateSecret() throws Exception {
        AtomicLong refreshed = new AtomicLong();
        CountDownLatch thrice = new CountDownLatch(3);
        CredentialsProvider provider = new CredentialsProvider() {
            @Override
            public String getUsername() {
                return "guest";
            }

            @Override
            public String getPassword() {
                return "guest";
            }

            @Override
            public Duration getTimeBeforeExpiration() {
                return Duration.ofMillis(400);
            }

            @Override
            public void refresh() {
                refreshed.incrementAndGet();
                thrice.countDown();
            }
        };
        CredentialsRefreshService service = new DefaultCredentialsRefreshService.DefaultCredentialsRefreshServiceBuilder()
                .refreshDelayStrategy(DefaultCredentialsRefreshService.ratioRefreshDelayStrategy(0.5))
                .approachingExpirationStrategy(left -> false)
                .build();
        ConnectionFactory factory = factory();
        factory.setCredentialsProvider(provider);
        factory.setCredentialsRefreshService(service);
        try (Connection connection = factory.newConnection(); Channel channel = connection.createChannel()) {
            // The next refresh comes only when the broker has answered the one before.
            Broker.check(thrice.await(Broker.WAIT_SECS, TimeUnit.SECONDS), "only " + refreshed.get() + " refreshes");
            String queue = channel.queueDeclare().getQueue();
            channel.basicPublish("", queue, null, Broker.bytes("still here"));
            Broker.equal(Broker.text(Broker.next(consume(channel, queue, true), "the message").getBody()), "still here", "body");
        }
    }

    static void wrongPassword() throws Exception {
        ConnectionFactory factory = factory();
        factory.setPassword("wrong");
        try {
            factory.newConnection().abort();
            throw new AssertionError("it was let in");
        } catch (AuthenticationFailureException error) {
            Broker.check(error.getMessage().contains("ACCESS_REFUSED"), error.getMessage());
        }
    }

    static void cleanClose() throws Exception {
        Connection connection = connect();
        Channel channel = connection.createChannel();
        channel.close();
        Broker.check(!channel.isOpen() && connection.isOpen(), "the channel only");
        connection.close();
        Broker.check(!connection.isOpen(), "still open");
    }

    static void dirtyClose() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = channel.queueDeclare().getQueue();
            Broker.misbehave();
            Broker.equal(channel.messageCount(queue), 0L, "messages");
        }
    }

    /** kill -9 under automatic recovery: queues, bindings and consumers come back by themselves; what was confirmed is there. */
    static void restart() throws Exception {
        ConnectionFactory factory = factory();
        factory.setAutomaticRecoveryEnabled(true);
        factory.setTopologyRecoveryEnabled(true);
        factory.setNetworkRecoveryInterval(300);
        try (Connection connection = factory.newConnection()) {
            CountDownLatch recovered = new CountDownLatch(1);
            ((Recoverable) connection).addRecoveryListener(new RecoveryListener() {
                @Override
                public void handleRecovery(Recoverable recoverable) {
                    recovered.countDown();
                }

                @Override
                public void handleRecoveryStarted(Recoverable recoverable) {}
            });
            Channel channel = connection.createChannel();
            String kept = Broker.name("restart");
            channel.queueDeclare(kept, true, false, false, null);
            // Not durable: the client makes them again, the queue under another name of the server's.
            String exchange = Broker.name("passing");
            channel.exchangeDeclare(exchange, BuiltinExchangeType.FANOUT, false);
            String passing = channel.queueDeclare().getQueue();
            channel.queueBind(passing, exchange, "");
            BlockingQueue<Delivery> heard = consume(channel, passing, true);
            channel.confirmSelect();
            for (int n = 0; n < 50; n++) channel.basicPublish("", kept, MessageProperties.PERSISTENT_BASIC, Broker.bytes(n));
            channel.waitForConfirmsOrDie(WAIT_MS);
            Broker.control("kill9");
            Broker.check(recovered.await(2 * WAIT_MS, TimeUnit.MILLISECONDS), "it did not recover");
            BlockingQueue<Delivery> got = consume(channel, kept, false);
            for (int n = 0; n < 50; n++) {
                Delivery delivery = Broker.next(got, "message " + n);
                Broker.equal(Broker.text(delivery.getBody()), String.valueOf(n), "body");
                channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            }
            channel.basicPublish(exchange, "", null, Broker.bytes("again"));
            Broker.equal(Broker.text(Broker.next(heard, "what goes to the recovered consumer").getBody()), "again", "body");
            channel.waitForConfirmsOrDie(WAIT_MS);
            channel.queueDelete(kept);
            channel.exchangeDelete(exchange);
        }
    }

    public static void main(String[] chosen) {
        int failed = 0;
        for (Map.Entry<String, Scenario> scenario : SCENARIOS.entrySet()) {
            if (chosen.length > 0 && !List.of(chosen).contains(scenario.getKey())) continue;
            long start = System.nanoTime();
            try {
                scenario.getValue().run();
                System.out.printf("ok - %s%n# %.1f s%n", scenario.getKey(), (System.nanoTime() - start) / 1e9);
            } catch (Throwable error) { // every kind, so that each scenario has its line
                failed++;
                System.out.println(("not ok - " + scenario.getKey() + ": " + error).replace('\n', ' '));
                error.printStackTrace(System.out);
            }
        }
        // Threads of lost connections may be left.
        System.exit(failed > 0 ? 1 : 0);
    }
}
