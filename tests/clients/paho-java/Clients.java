import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.logging.LogManager;
import java.util.stream.IntStream;

/** Eclipse Paho for Java against a broker, over MQTT 3.1.1 and 5. Prints a TAP line per scenario. */
public final class Clients {
    interface Scenario {
        void run(int version, String base) throws Exception;
    }

    static final Map<String, Scenario> SCENARIOS = new LinkedHashMap<>();
    static final Set<String> ONLY_V5 = Set.of("takeover-142", "properties");

    static {
        SCENARIOS.put("qos0", (version, base) -> bothWays(version, base, 0));
        SCENARIOS.put("qos1", (version, base) -> bothWays(version, base, 1));
        SCENARIOS.put("qos2", (version, base) -> bothWays(version, base, 2));
        SCENARIOS.put("retained", Clients::retained);
        SCENARIOS.put("will", Clients::will);
        SCENARIOS.put("takeover", Clients::takeover);
        SCENARIOS.put("takeover-142", (version, base) -> equal(takeover(version, base), 142, "reason of the DISCONNECT"));
        SCENARIOS.put("offline-restart", (version, base) -> offline(version, base, "restart"));
        SCENARIOS.put("offline-kill9", (version, base) -> offline(version, base, "kill9"));
        SCENARIOS.put("shared", Clients::shared);
        SCENARIOS.put("payload-1mib", Clients::large);
        SCENARIOS.put("properties", Clients::properties);
        SCENARIOS.put("wrong-password", Clients::wrongPassword);
        SCENARIOS.put("anonymous", Clients::anonymous);
    }

    static Peer guest(int version, String name) throws Exception {
        return Peer.open(version, name, Peer.Options.guest());
    }

    static void bothWays(int version, String base, int qos) throws Exception {
        Peer subscriber = guest(version, base + "-s");
        subscriber.subscribe(base + "/#", qos);
        Peer publisher = guest(version, base + "-p");
        StringBuilder all = new StringBuilder();
        for (char c = 0; c < 256; c++) all.append(c);
        List<Peer.Message> sent = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            sent.add(new Peer.Message(base + "/" + i, i + " " + all, qos, false));
            publisher.publish(sent.get(i).topic(), sent.get(i).payload(), qos);
        }
        publisher.publish(base + "/end", Peer.END, qos);
        equal(subscriber.receiveToEnd(), sent, "messages");
        subscriber.close();
        publisher.close();
    }

    static void retained(int version, String base) throws Exception {
        String a = base + "/a";
        String b = base + "/b";
        Peer client = guest(version, base + "-p");
        client.retain(a, "first", 1);
        client.retain(a, "second", 1);
        client.retain(b, "other", 2);
        Peer early = guest(version, base + "-1");
        early.subscribe(base + "/+", 1);
        List<Peer.Message> got = early.receive(2);
        got.sort((x, y) -> x.topic().compareTo(y.topic()));
        equal(got, List.of(new Peer.Message(a, "second", 1, true), new Peer.Message(b, "other", 1, true)), "wildcard");
        client.retain(b, "live", 1);
        equal(early.receive(), new Peer.Message(b, "live", 1, false), "live");
        client.retain(a, "", 1);
        Peer late = guest(version, base + "-2");
        late.subscribe(base + "/#", 1);
        client.publish(base + "/end", Peer.END, 1);
        equal(late.receiveToEnd(), List.of(new Peer.Message(b, "live", 1, true)), "after the clear");
        client.retain(b, "", 1);
        client.close();
        early.close();
        late.close();
    }

    static void will(int version, String base) throws Exception {
        Peer watcher = guest(version, base + "-w");
        watcher.subscribe(base + "/#", 1);
        Peer.open(version, base + "-polite", Peer.Options.guest().will(base + "/polite", "polite")).close();
        Peer.open(version, base + "-cut", Peer.Options.guest().will(base + "/gone", "gone")).cut();
        equal(watcher.receive(), new Peer.Message(base + "/gone", "gone", 1, false), "will");
        watcher.close();
    }

    static int takeover(int version, String base) throws Exception {
        Peer old = guest(version, base + "-same");
        old.subscribe(base + "/old", 1);
        Peer young = guest(version, base + "-same");
        young.subscribe(base + "/new", 1);
        int reason = Peer.take(old.ends, "end of the old connection");
        equal(young.sessionPresent, false, "session present");
        Peer other = guest(version, base + "-other");
        other.publish(base + "/old", "for nobody", 1);
        other.publish(base + "/new", "still here", 1);
        equal(young.receive().payload(), "still here", "the new connection");
        young.close();
        other.close();
        return reason;
    }

    static void offline(int version, String base, String command) throws Exception {
        Peer session = Peer.open(version, base + "-s", Peer.Options.kept());
        equal(session.sessionPresent, false, "session present at first");
        session.subscribe(base + "/#", 2);
        session.close();
        Peer publisher = guest(version, base + "-p");
        for (int i = 0; i < 50; i++) {
            publisher.publish(base + "/1", "" + i, 1);
            publisher.publish(base + "/2", "" + i, 2);
        }
        Peer.control(command);
        Peer.take(publisher.ends, "end of the publisher's connection");
        publisher = guest(version, base + "-p");
        publisher.publish(base + "/1", "50", 1);
        publisher.publish(base + "/2", "50", 2);
        session = Peer.open(version, base + "-s", Peer.Options.kept());
        equal(session.sessionPresent, true, "session present");
        publisher.publish(base + "/end", Peer.END, 2);
        List<Peer.Message> got = session.receiveToEnd();
        for (int qos = 1; qos <= 2; qos++) {
            String topic = base + "/" + qos;
            int granted = qos;
            List<Peer.Message> mine = got.stream().filter(message -> message.topic().equals(topic)).toList();
            equal(mine, IntStream.rangeClosed(0, 50).mapToObj(i -> new Peer.Message(topic, "" + i, granted, false)).toList(), topic);
        }
        session.close();
        guest(version, base + "-s").close();
        publisher.close();
    }

    static void shared(int version, String base) throws Exception {
        List<Peer> members = List.of(guest(version, base + "-a"), guest(version, base + "-b"));
        for (Peer member : members) {
            member.subscribe("$share/group/" + base + "/+", 1);
            member.subscribe(base + "-end", 1);
        }
        Peer publisher = guest(version, base + "-p");
        for (int i = 0; i < 40; i++) publisher.publish(base + "/x", "" + i, 1);
        long deadline = System.nanoTime() + Peer.WAIT * 1_000_000L;
        while (members.stream().mapToInt(member -> member.messages.size()).sum() < 40 && System.nanoTime() < deadline) Thread.sleep(10);
        publisher.publish(base + "-end", Peer.END, 1);
        List<Integer> all = new ArrayList<>();
        for (Peer member : members) {
            List<Peer.Message> share = member.receiveToEnd();
            if (share.isEmpty()) throw new AssertionError("one member got all");
            share.forEach(message -> all.add(Integer.valueOf(message.payload())));
            member.close();
        }
        equal(all.stream().sorted().toList(), IntStream.range(0, 40).boxed().toList(), "both shares together");
        publisher.close();
    }

    static void large(int version, String base) throws Exception {
        Peer client = guest(version, base + "-c");
        client.subscribe(base + "/#", 2);
        byte[] payload = new byte[1 << 20];
        new Random(1).nextBytes(payload);
        for (int qos = 0; qos <= 2; qos++) {
            client.publish(base + "/x", payload, qos, false, null);
            Peer.Message got = client.receive();
            if (got.qos() != qos || !got.payload().equals(Peer.text(payload))) {
                throw new AssertionError("1 MiB at QoS " + qos + " came back as " + got.payload().length() + " bytes at QoS " + got.qos());
            }
        }
        client.close();
    }

    static void properties(int version, String base) throws Exception {
        Peer client = guest(version, base + "-c");
        client.subscribe(base + "/+", 1, 7);
        StringBuilder all = new StringBuilder();
        for (char c = 0; c < 256; c++) all.append(c);
        List<Peer.Pair> user = List.of(new Peer.Pair("b", "1"), new Peer.Pair("a", "2"), new Peer.Pair("b", "1"), new Peer.Pair("", "empty name"),
                new Peer.Pair("ключ", "значение"));
        Peer.Properties sent = new Peer.Properties(true, 300, "text/plain; charset=utf-8", base + "/answers", all.toString(), user, List.of(7));
        client.publish(base + "/x", Peer.bytes("text"), 1, false, sent);
        Peer.Properties got = Peer.take(client.properties, "message");
        if (got.expiry() < 290 || got.expiry() > 300) throw new AssertionError("expiry " + got.expiry());
        equal(got, new Peer.Properties(true, got.expiry(), sent.contentType(), sent.response(), sent.correlation(), user, List.of(7)), "properties");
        client.close();
    }

    static void wrongPassword(int version, String base) throws Exception {
        int wanted = Integer.parseInt(Peer.env(version == 5 ? "MQTT_REFUSED_V5" : "MQTT_REFUSED_V3"));
        try {
            Peer.open(version, base + "-c", new Peer.Options(false, "guest", "wrong", null, null));
        } catch (Peer.Refused refused) {
            equal(refused.code, wanted, "CONNACK");
            return;
        }
        throw new AssertionError("was let in");
    }

    static void anonymous(int version, String base) throws Exception {
        Peer client = Peer.open(version, base + "-c", new Peer.Options(false, null, null, null, null));
        client.subscribe(base + "/x", 0);
        client.publish(base + "/x", "hello", 0);
        equal(client.receive().payload(), "hello", "payload");
        client.close();
    }

    static void equal(Object got, Object want, String what) {
        if (!got.equals(want)) throw new AssertionError(what + ": got " + brief(got) + ", want " + brief(want));
    }

    private static String brief(Object value) {
        String text = value.toString().replaceAll("[^\\x20-\\x7e]", ".");
        return text.length() <= 300 ? text : text.substring(0, 300) + "...";
    }

    public static void main(String[] args) {
        // The library reports each QoS 2 acknowledgement as news.
        LogManager.getLogManager().reset();
        int failed = 0;
        for (int version = 4; version <= 5; version++) {
            String tag = version == 5 ? "v5" : "v311";
            for (Map.Entry<String, Scenario> entry : SCENARIOS.entrySet()) {
                String name = entry.getKey();
                if (version == 4 && ONLY_V5.contains(name)) continue;
                try {
                    entry.getValue().run(version, "java-" + tag + "-" + name);
                    System.out.println("ok - " + tag + "/" + name);
                } catch (Exception | AssertionError error) {
                    failed++;
                    System.out.println("not ok - " + tag + "/" + name + ": " + error.getMessage());
                    error.printStackTrace();
                }
            }
        }
        // Threads of connections that a scenario left behind must not hold the end.
        System.exit(failed == 0 ? 0 : 1);
    }
}
