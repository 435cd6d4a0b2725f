import com.rabbitmq.client.ShutdownSignalException;
import java.net.Socket;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.logging.LogManager;
import java.util.stream.IntStream;
import org.springframework.amqp.AmqpException;
import org.springframework.amqp.AmqpRejectAndDontRequeueException;
import org.springframework.amqp.core.AcknowledgeMode;
import org.springframework.amqp.core.BindingBuilder;
import org.springframework.amqp.core.FanoutExchange;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.core.MessageBuilder;
import org.springframework.amqp.core.MessageListener;
import org.springframework.amqp.core.MessagePropertiesBuilder;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.core.QueueBuilder;
import org.springframework.amqp.core.TopicExchange;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.connection.Connection;
import org.springframework.amqp.rabbit.connection.CorrelationData;
import org.springframework.amqp.rabbit.core.RabbitAdmin;
import org.springframework.amqp.rabbit.core.RabbitTemplate;
import org.springframework.amqp.rabbit.listener.AbstractMessageListenerContainer;
import org.springframework.amqp.rabbit.listener.DirectMessageListenerContainer;
import org.springframework.amqp.rabbit.listener.SimpleMessageListenerContainer;
import org.springframework.amqp.rabbit.listener.adapter.MessageListenerAdapter;
import org.springframework.amqp.rabbit.transaction.RabbitTransactionManager;
import org.springframework.transaction.support.TransactionTemplate;

/** Spring AMQP against a broker: its admin, template and listener containers. Prints a TAP line per scenario. */
public final class Clients {
    interface Scenario {
        void run(Spring spring) throws Exception;
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
        SCENARIOS.put("direct-container", Clients::directContainer);
        SCENARIOS.put("tx", Clients::tx);
        SCENARIOS.put("clean-close", Clients::cleanClose);
        SCENARIOS.put("dirty-close", Clients::dirtyClose);
        SCENARIOS.put("restart-kill9", Clients::restart);
    }

    /** What an application has: a connection factory, an admin and a template. */
    static final class Spring implements AutoCloseable {
        final CachingConnectionFactory factory = new CachingConnectionFactory(Broker.HOST, Broker.PORT);
        final List<Socket> sockets = new CopyOnWriteArrayList<>();
        final RabbitAdmin admin;
        final RabbitTemplate template;
        final List<AbstractMessageListenerContainer> containers = new ArrayList<>();
        final List<String> queues = new ArrayList<>();

        Spring(boolean confirms) {
            factory.getRabbitConnectionFactory().setSocketConfigurator(sockets::add);
            if (confirms) factory.setPublisherConfirmType(CachingConnectionFactory.ConfirmType.CORRELATED);
            factory.setPublisherReturns(confirms);
            admin = new RabbitAdmin(factory);
            // What is not durable is declared again after a connection was lost.
            admin.setRedeclareManualDeclarations(true);
            admin.afterPropertiesSet();
            template = new RabbitTemplate(factory);
            template.setMandatory(confirms);
            template.setReceiveTimeout(WAIT_MS);
            template.setReplyTimeout(WAIT_MS);
        }

        String queue(QueueBuilder builder) {
            String name = admin.declareQueue(builder.build());
            queues.add(name);
            return name;
        }

        String queue(String what) {
            return queue(QueueBuilder.durable(Broker.name(what)));
        }

        <T extends AbstractMessageListenerContainer> T listen(T container, String queue, MessageListener listener) {
            container.setConnectionFactory(factory);
            container.setAmqpAdmin(admin);
            container.setQueueNames(queue);
            container.setMessageListener(listener);
            container.setRecoveryInterval(300);
            container.setMissingQueuesFatal(false);
            container.setShutdownTimeout(2000);
            container.afterPropertiesSet();
            container.start();
            containers.add(container);
            return container;
        }

        /** A container that takes up to ten messages in advance and acknowledges what its listener has returned from. */
        SimpleMessageListenerContainer simple() {
            SimpleMessageListenerContainer container = new SimpleMessageListenerContainer();
            container.setPrefetchCount(10);
            container.setReceiveTimeout(200);
            container.setAcknowledgeMode(AcknowledgeMode.AUTO);
            return container;
        }

        long count(String queue) {
            return admin.getQueueInfo(queue).getMessageCount();
        }

        void untilEmpty(String queue) throws InterruptedException {
            long end = System.nanoTime() + WAIT_MS * 1_000_000;
            while (count(queue) > 0 && System.nanoTime() < end) Thread.sleep(20);
            Broker.equal(count(queue), 0L, "messages left");
        }

        @Override
        public void close() {
            containers.forEach(AbstractMessageListenerContainer::stop);
            queues.forEach(admin::deleteQueue);
            template.stop();
            factory.destroy();
        }
    }

    static String text(Message message) {
        Broker.check(message != null, "no message came");
        return Broker.text(message.getBody());
    }

    static CorrelationData send(Spring spring, String exchange, String key, String body) {
        CorrelationData sent = new CorrelationData(body);
        spring.template.convertAndSend(exchange, key, body, sent);
        return sent;
    }

    static boolean confirmed(CorrelationData sent) throws Exception {
        return sent.getFuture().get(WAIT_MS, TimeUnit.MILLISECONDS).ack();
    }

    static void confirms(Spring spring) throws Exception {
        String queue = spring.queue("confirms");
        List<CorrelationData> sent = IntStream.range(0, 100).mapToObj(n -> send(spring, "", queue, "" + n)).toList();
        for (CorrelationData one : sent) Broker.check(confirmed(one), one.getId() + " was refused");
        Broker.equal(spring.count(queue), 100L, "messages");
        String full = spring.queue(QueueBuilder.nonDurable(Broker.name("full")).maxLength(1L).overflow(QueueBuilder.Overflow.rejectPublish));
        Broker.check(confirmed(send(spring, "", full, "1")), "the first was refused");
        Broker.check(!confirmed(send(spring, "", full, "2")), "the second was taken");
    }

    static void consumeAck(Spring spring) throws Exception {
        String queue = spring.queue("consume");
        // By one channel, for the order; by itself the template takes another one while a confirm is awaited.
        spring.template.invoke(one -> {
            for (int n = 0; n < 200; n++) one.convertAndSend("", queue, "" + n);
            return null;
        });
        BlockingQueue<Message> got = new LinkedBlockingQueue<>();
        spring.listen(spring.simple(), queue, got::add);
        for (int n = 0; n < 200; n++) Broker.equal(text(Broker.next(got, "message " + n)), "" + n, "body");
        spring.untilEmpty(queue);
    }

    /** The connection is cut while the listener has a message in hand: the container comes back and gets it again. */
    static void redelivery(Spring spring) throws Exception {
        String queue = spring.queue("redelivery");
        BlockingQueue<Boolean> marked = new LinkedBlockingQueue<>();
        SimpleMessageListenerContainer container = spring.simple();
        spring.listen(container, queue, message -> {
            marked.add(message.getMessageProperties().isRedelivered());
            if (marked.size() == 1) cut(spring);
            // Refused, which puts it back by default.
            if (marked.size() == 2) throw new IllegalStateException("once more, please");
        });
        spring.template.convertAndSend(queue, (Object) "again");
        long end = System.nanoTime() + WAIT_MS * 1_000_000;
        while (marked.size() < 3 && System.nanoTime() < end) Thread.sleep(20);
        Broker.equal(List.copyOf(marked), List.of(false, true, true), "redelivered");
        spring.untilEmpty(queue);
        Broker.equal(marked.size(), 3, "deliveries");
    }

    static void cut(Spring spring) {
        try {
            for (Socket socket : spring.sockets) socket.close();
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }

    static void mandatory(Spring spring) throws Exception {
        BlockingQueue<String> returned = new LinkedBlockingQueue<>();
        spring.template.setReturnsCallback(back -> returned.add(back.getReplyCode() + back.getReplyText() + text(back.getMessage())));
        CorrelationData sent = send(spring, "", Broker.name("nobody"), "back");
        Broker.equal(Broker.next(returned, "the return"), "312NO_ROUTEback", "return");
        Broker.check(confirmed(sent), "it was refused");
        Broker.equal(text(sent.getReturned().getMessage()), "back", "what came with the confirm");
    }

    /** Of a message that expires, and of one that a listener will not have. */
    static void deadLetter(Spring spring) throws Exception {
        FanoutExchange exchange = new FanoutExchange(Broker.name("dlx"), false, true);
        spring.admin.declareExchange(exchange);
        String dead = spring.queue("dead");
        spring.admin.declareBinding(BindingBuilder.bind(new Queue(dead)).to(exchange));
        String expiring = spring.queue(QueueBuilder.nonDurable(Broker.name("source")).ttl(1).deadLetterExchange(exchange.getName()));
        String refusing = spring.queue(QueueBuilder.nonDurable(Broker.name("refuse")).deadLetterExchange(exchange.getName()));
        spring.listen(spring.simple(), refusing, message -> {
            throw new AmqpRejectAndDontRequeueException("no");
        });
        for (String[] source : new String[][] {{expiring, "expired"}, {refusing, "rejected"}}) {
            spring.template.convertAndSend("", source[0], "late", message -> {
                message.getMessageProperties().setHeader("mine", "kept");
                return message;
            });
            Message message = spring.template.receive(dead);
            Broker.equal(text(message) + message.getMessageProperties().getHeader("mine"), "latekept", "message");
            Map<String, ?> death = message.getMessageProperties().getXDeathHeader().get(0);
            Broker.equal(death.get("reason") + " " + death.get("queue") + " " + death.get("count"), source[1] + " " + source[0] + " 1", "x-death");
            Broker.equal(message.getMessageProperties().getHeader("x-first-death-reason"), source[1], "first reason");
        }
    }

    static void ttl(Spring spring) throws Exception {
        String queue = spring.queue("ttl");
        for (String[] one : new String[][] {{"short", "100"}, {"long", "60000"}}) {
            var properties = MessagePropertiesBuilder.newInstance().setExpiration(one[1]).build();
            spring.template.send(queue, MessageBuilder.withBody(Broker.bytes(one[0])).andProperties(properties).build());
        }
        Thread.sleep(2200);
        Message message = spring.template.receive(queue);
        Broker.equal(text(message) + message.getMessageProperties().getExpiration(), "long60000", "message");
    }

    static void serverNamed(Spring spring) throws Exception {
        Queue queue = spring.admin.declareQueue();
        Broker.check(queue.getName().startsWith("amq.gen-"), queue.getName());
        spring.admin.declareBinding(BindingBuilder.bind(queue).to(new TopicExchange("amq.topic")).with("a.*"));
        Broker.check(confirmed(send(spring, "amq.topic", "a.b", "routed")), "refused");
        Broker.check(confirmed(send(spring, "amq.topic", "a.b.c", "not")), "refused");
        BlockingQueue<Message> got = new LinkedBlockingQueue<>();
        spring.listen(spring.simple(), queue.getName(), got::add);
        Message message = Broker.next(got, "the message");
        Broker.equal(message.getMessageProperties().getReceivedRoutingKey() + text(message), "a.brouted", "message");
        try (Spring other = new Spring(false)) {
            other.template.execute(channel -> channel.queueDeclarePassive(queue.getName()));
            throw new AssertionError("it is not exclusive");
        } catch (AmqpException error) {
            ShutdownSignalException why = (ShutdownSignalException) error.getCause().getCause();
            Broker.check(why.getMessage().contains("reply-code=405"), why.getMessage());
        }
        spring.close();
        try (Spring other = new Spring(false)) {
            Broker.equal(other.admin.getQueueInfo(queue.getName()), null, "the queue of a closed connection");
        }
    }

    /** What is asked by convertSendAndReceive is answered by direct reply-to. */
    static void rpc(Spring spring) throws Exception {
        String queue = spring.queue("rpc");
        List<String> addresses = new CopyOnWriteArrayList<>();
        SimpleMessageListenerContainer container = spring.simple();
        container.setAfterReceivePostProcessors(message -> {
            addresses.add(message.getMessageProperties().getReplyTo());
            return message;
        });
        spring.listen(container, queue, new MessageListenerAdapter(new Answering()));
        for (int n = 0; n < 20; n++) Broker.equal(spring.template.convertSendAndReceive(queue, (Object) ("question " + n)), "answer to question " + n, "answer");
        Broker.check(addresses.stream().allMatch(address -> address.startsWith("amq.rabbitmq.reply-to.")), addresses.toString());
    }

    /** Called by its name, by reflection. */
    public static final class Answering {
        public String handleMessage(String question) {
            return "answer to " + question;
        }
    }

    static void large(Spring spring) throws Exception {
        String queue = spring.queue("large");
        for (int size : new int[] {0, 131_064, 131_065, 1 << 20, 5_000_000}) {
            byte[] body = Broker.pattern(size);
            CorrelationData sent = new CorrelationData();
            spring.template.convertAndSend("", queue, body, sent);
            Broker.check(confirmed(sent), size + " bytes were refused");
            Broker.check(Arrays.equals(spring.template.receive(queue).getBody(), body), size + " bytes came back as others");
        }
    }

    /** The other kind of container: consumers without threads of their own, three of them on a queue. */
    static void directContainer(Spring spring) throws Exception {
        String queue = spring.queue("direct");
        BlockingQueue<Message> got = new LinkedBlockingQueue<>();
        DirectMessageListenerContainer container = new DirectMessageListenerContainer();
        container.setConsumersPerQueue(3);
        container.setPrefetchCount(2);
        container.setMessagesPerAck(4);
        container.setAckTimeout(200);
        spring.listen(container, queue, got::add);
        for (int n = 0; n < 60; n++) spring.template.convertAndSend(queue, (Object) ("" + n));
        List<Integer> bodies = new ArrayList<>();
        for (int n = 0; n < 60; n++) bodies.add(Integer.parseInt(text(Broker.next(got, "message " + n))));
        bodies.sort(null);
        Broker.equal(bodies, IntStream.range(0, 60).boxed().toList(), "bodies");
        container.setConsumersPerQueue(1);
        spring.untilEmpty(queue);
    }

    /** A transaction of Spring's is one of the channel. */
    static void tx(Spring confirming) throws Exception {
        try (Spring spring = new Spring(false)) {
            String queue = spring.queue("tx");
            spring.template.setChannelTransacted(true);
            TransactionTemplate transaction = new TransactionTemplate(new RabbitTransactionManager(spring.factory));
            transaction.executeWithoutResult(status -> {
                spring.template.convertAndSend(queue, (Object) "no");
                status.setRollbackOnly();
            });
            transaction.executeWithoutResult(status -> {
                spring.template.convertAndSend(queue, (Object) "yes");
                Broker.equal(confirming.count(queue), 0L, "messages before the commit");
            });
            Broker.equal(confirming.count(queue), 1L, "messages");
            transaction.executeWithoutResult(status -> {
                Broker.equal(text(spring.template.receive(queue)), "yes", "body");
                status.setRollbackOnly();
            });
            transaction.executeWithoutResult(status -> Broker.equal(text(spring.template.receive(queue)), "yes", "body after a rollback"));
            Broker.equal(confirming.count(queue), 0L, "messages left");
        }
    }

    static void cleanClose(Spring spring) {
        Connection connection = spring.factory.createConnection();
        Broker.check(connection.isOpen(), "not open");
        spring.factory.destroy();
        Broker.check(!connection.isOpen(), "still open");
    }

    static void dirtyClose(Spring spring) throws Exception {
        String queue = spring.queue("dirty");
        Broker.misbehave();
        Broker.equal(spring.count(queue), 0L, "messages");
    }

    /** kill -9 under a container: it comes back by itself, with a queue that was not durable; what was confirmed is there. */
    static void restart(Spring spring) throws Exception {
        String kept = spring.queue("restart");
        String passing = spring.queue(QueueBuilder.nonDurable(Broker.name("passing")));
        BlockingQueue<Message> heard = new LinkedBlockingQueue<>();
        spring.listen(spring.simple(), passing, heard::add);
        spring.template.convertAndSend(passing, (Object) "before");
        Broker.equal(text(Broker.next(heard, "what was sent before")), "before", "body");
        List<CorrelationData> sent = spring.template.invoke(one -> IntStream.range(0, 50).mapToObj(n -> send(spring, "", kept, "" + n)).toList());
        for (CorrelationData one : sent) Broker.check(confirmed(one), one.getId() + " was refused");
        Broker.control("kill9");
        Broker.equal(confirmedAtLast(spring, passing), "after", "what goes to the container");
        Broker.equal(text(Broker.next(heard, "what was sent after")), "after", "body");
        for (int n = 0; n < 50; n++) Broker.equal(text(spring.template.receive(kept)), "" + n, "body");
        Broker.equal(spring.count(kept), 0L, "messages left");
    }

    /** Sends until the broker is there again, and has the queue. */
    static String confirmedAtLast(Spring spring, String queue) throws Exception {
        long end = System.nanoTime() + 2 * WAIT_MS * 1_000_000;
        while (System.nanoTime() < end) {
            try {
                CorrelationData sent = send(spring, "", queue, "after");
                if (confirmed(sent) && sent.getReturned() == null) return sent.getId();
            } catch (AmqpException notYet) {
                // Not connected.
            }
            Thread.sleep(100);
        }
        return "nothing";
    }

    public static void main(String[] chosen) {
        // Lost connections are reported at length, which here are meant.
        LogManager.getLogManager().reset();
        int failed = 0;
        for (Map.Entry<String, Scenario> scenario : SCENARIOS.entrySet()) {
            if (chosen.length > 0 && !List.of(chosen).contains(scenario.getKey())) continue;
            long start = System.nanoTime();
            try (Spring spring = new Spring(true)) {
                scenario.getValue().run(spring);
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
