import com.rabbitmq.client.Address;
import com.rabbitmq.client.AddressResolver;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.MessageProperties;
import com.rabbitmq.client.Recoverable;
import com.rabbitmq.client.RecoveryListener;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;

/**
 * RabbitMQ's client for Java with the addresses of both nodes and its automatic recovery, which is on by itself: what it prints and when it ends stands in
 * ../python/client.py. What was not confirmed is sent again by whoever uses it.
 */
public final class Clients {
  private static final String QUEUE = "fo-rabbitmq-java";
  private static final String KEY = "t.rabbitmq-java";
  private static final String PRODUCER = System.getenv("PRODUCER");
  private static final Set<Integer> confirmed = ConcurrentHashMap.newKeySet();
  private static final Set<Integer> got = ConcurrentHashMap.newKeySet();
  private static volatile boolean over;

  private static synchronized void say(String line) {
    System.out.println(line);
    System.out.flush();
  }

  /** In the order given: the library's own resolver shuffles them. */
  private static final class InOrder implements AddressResolver {
    @Override
    public List<Address> getAddresses() {
      return Stream.of(System.getenv("HOSTS").split(",")).map(host -> new Address(host, 5672)).toList();
    }

    @Override
    public List<Address> maybeShuffle(List<Address> addresses) {
      return addresses;
    }
  }

  /** How often a connection has been recovered stands in {@code recoveries}: its channels and what they were set to included. */
  private static Connection connect(AtomicInteger recoveries) throws Exception {
    ConnectionFactory factory = new ConnectionFactory();
    factory.setUsername("app");
    factory.setPassword("app");
    factory.setConnectionTimeout(1000);
    factory.setHandshakeTimeout(2000);
    factory.setRequestedHeartbeat(2);
    factory.setNetworkRecoveryInterval(20);
    while (true) {
      try {
        Connection connection = factory.newConnection(new InOrder());
        if (connection instanceof Recoverable recoverable) {
          recoverable.addRecoveryListener(
              new RecoveryListener() {
                @Override
                public void handleRecovery(Recoverable found) {
                  say("at " + ((Connection) found).getAddress().getHostAddress());
                  recoveries.incrementAndGet();
                }

                @Override
                public void handleRecoveryStarted(Recoverable found) {}
              });
        }
        say("at " + connection.getAddress().getHostAddress());
        return connection;
      } catch (IOException | TimeoutException error) {
        Thread.sleep(20);
      }
    }
  }

  private static void consume() throws Exception {
    Channel channel = connect(new AtomicInteger()).createChannel();
    channel.queueDeclare(QUEUE, true, false, false, null);
    channel.queueBind(QUEUE, "amq.topic", KEY);
    channel.basicConsume(
        QUEUE,
        false,
        (tag, delivery) -> {
          String[] words = new String(delivery.getBody(), StandardCharsets.UTF_8).split(" ");
          if (words[0].equals(PRODUCER)) {
            got.add(Integer.valueOf(words[1]));
            say("got " + words[1]);
          }
          try {
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
          } catch (AlreadyClosedException error) {
            // It comes again after the recovery.
          }
        },
        tag -> {});
  }

  private static void publish() throws Exception {
    AtomicInteger recoveries = new AtomicInteger();
    Channel channel = connect(recoveries).createChannel();
    channel.confirmSelect();
    for (int n = 1; !over; n++) {
      byte[] body = (PRODUCER + " " + n + " " + "x".repeat(80)).getBytes(StandardCharsets.UTF_8);
      while (true) {
        say("sent " + n);
        int before = recoveries.get();
        try {
          channel.basicPublish("amq.topic", KEY, MessageProperties.MINIMAL_PERSISTENT_BASIC, body);
          if (channel.waitForConfirms(20_000)) {
            break;
          }
        } catch (IOException | ShutdownSignalException error) {
          // The channel is the same one after the recovery. It is open before it is one with confirms again: what is published then is
          // not counted by the broker, and waited for without end.
          while (recoveries.get() == before) {
            Thread.sleep(5);
          }
        }
      }
      confirmed.add(n);
      say("confirmed " + n);
      Thread.sleep(10);
    }
  }

  public static void main(String[] args) throws Exception {
    consume();
    Thread publisher =
        new Thread(
            () -> {
              try {
                publish();
              } catch (Exception error) {
                error.printStackTrace();
              }
            });
    publisher.start();
    System.in.readAllBytes();
    over = true;
    publisher.join(20_000);
    for (long deadline = System.currentTimeMillis() + 20_000; System.currentTimeMillis() < deadline; Thread.sleep(20)) {
      if (got.containsAll(confirmed)) {
        break;
      }
    }
    Thread.sleep(200);
    long missing = confirmed.stream().filter(n -> !got.contains(n)).count();
    say("end " + confirmed.size() + " " + missing);
    System.exit(missing > 0 ? 1 : 0);
  }
}
