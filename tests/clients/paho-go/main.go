// Eclipse Paho for Go against a broker: paho.mqtt.golang over MQTT 3.1.1, paho.golang over 5.
package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"sort"
	"strconv"
	"time"
)

func bothWays(qos byte) func(int, string) {
	return func(version int, base string) {
		subscriber := connect(version, base+"-s", guest())
		subscriber.subscribe(base+"/#", qos, 0)
		publisher := connect(version, base+"-p", guest())
		var want []message
		for i := range 20 {
			payload := []byte(strconv.Itoa(i) + " ")
			for b := range 256 {
				payload = append(payload, byte(b))
			}
			topic := base + "/" + strconv.Itoa(i)
			publisher.publish(topic, payload, qos, false, nil)
			want = append(want, message{topic: topic, payload: string(payload), qos: qos})
		}
		publisher.publish(base+"/end", []byte(end), qos, false, nil)
		equal(plain(subscriber.seen().receiveToEnd()), want, "messages")
		subscriber.close()
		publisher.close()
	}
}

func retained(version int, base string) {
	client := connect(version, base+"-p", guest())
	client.publish(base+"/a", []byte("first"), 1, true, nil)
	client.publish(base+"/a", []byte("second"), 1, true, nil)
	client.publish(base+"/b", []byte("other"), 2, true, nil)
	early := connect(version, base+"-1", guest())
	early.subscribe(base+"/+", 1, 0)
	got := []message{early.seen().receive(), early.seen().receive()}
	sort.Slice(got, func(i, j int) bool { return got[i].topic < got[j].topic })
	equal(plain(got), []message{{base + "/a", "second", 1, true, nil}, {base + "/b", "other", 1, true, nil}}, "wildcard")
	client.publish(base+"/b", []byte("live"), 1, true, nil)
	equal(plain([]message{early.seen().receive()}), []message{{base + "/b", "live", 1, false, nil}}, "live")
	client.publish(base+"/a", nil, 1, true, nil)
	late := connect(version, base+"-2", guest())
	late.subscribe(base+"/#", 1, 0)
	client.publish(base+"/end", []byte(end), 1, false, nil)
	equal(plain(late.seen().receiveToEnd()), []message{{base + "/b", "live", 1, true, nil}}, "after the clear")
	client.publish(base+"/b", nil, 1, true, nil)
	client.close()
	early.close()
	late.close()
}

func lastWill(version int, base string) {
	watcher := connect(version, base+"-w", guest())
	watcher.subscribe(base+"/#", 1, 0)
	with := func(name string) options {
		o := guest()
		o.will = &will{base + "/" + name, name}
		return o
	}
	connect(version, base+"-polite", with("polite")).close()
	connect(version, base+"-cut", with("gone")).cut()
	equal(plain([]message{watcher.seen().receive()}), []message{{base + "/gone", "gone", 1, false, nil}}, "will")
	watcher.close()
}

func takeover(version int, base string) {
	takeOver(version, base)
}

func takeOver(version int, base string) client {
	old := connect(version, base+"-same", guest())
	old.subscribe(base+"/old", 1, 0)
	young := connect(version, base+"-same", guest())
	young.subscribe(base+"/new", 1, 0)
	old.seen().awaitEnd()
	equal(young.seen().present, false, "session present")
	other := connect(version, base+"-other", guest())
	other.publish(base+"/old", []byte("for nobody"), 1, false, nil)
	other.publish(base+"/new", []byte("still here"), 1, false, nil)
	equal(young.seen().receive().payload, "still here", "the new connection")
	young.close()
	other.close()
	return old
}

func takeover142(version int, base string) {
	select {
	case reason := <-takeOver(version, base).seen().reason:
		equal(reason, byte(142), "reason of the DISCONNECT")
	case <-time.After(wait):
		panic("no DISCONNECT came")
	}
}

func offline(command string) func(int, string) {
	return func(version int, base string) {
		kept := guest()
		kept.keep = true
		session := connect(version, base+"-s", kept)
		equal(session.seen().present, false, "session present at first")
		session.subscribe(base+"/#", 2, 0)
		session.close()
		publisher := connect(version, base+"-p", guest())
		for i := range 50 {
			publisher.publish(base+"/one", []byte(strconv.Itoa(i)), 1, false, nil)
			publisher.publish(base+"/two", []byte(strconv.Itoa(i)), 2, false, nil)
		}
		control(command)
		publisher.seen().awaitEnd()
		publisher = connect(version, base+"-p", guest())
		publisher.publish(base+"/one", []byte("50"), 1, false, nil)
		publisher.publish(base+"/two", []byte("50"), 2, false, nil)
		session = connect(version, base+"-s", kept)
		equal(session.seen().present, true, "session present")
		publisher.publish(base+"/end", []byte(end), 2, false, nil)
		got := session.seen().receiveToEnd()
		for qos, topic := range map[byte]string{1: base + "/one", 2: base + "/two"} {
			var mine, want []message
			for _, m := range plain(got) {
				if m.topic == topic {
					mine = append(mine, m)
				}
			}
			for i := range 51 {
				want = append(want, message{topic: topic, payload: strconv.Itoa(i), qos: qos})
			}
			equal(mine, want, topic)
		}
		session.close()
		connect(version, base+"-s", guest()).close()
		publisher.close()
	}
}

func shared(version int, base string) {
	members := []client{connect(version, base+"-a", guest()), connect(version, base+"-b", guest())}
	for _, member := range members {
		member.subscribe("$share/group/"+base+"/+", 1, 0)
		member.subscribe(base+"-end", 1, 0)
	}
	publisher := connect(version, base+"-p", guest())
	var want, all []int
	for i := range 40 {
		publisher.publish(base+"/x", []byte(strconv.Itoa(i)), 1, false, nil)
		want = append(want, i)
	}
	deadline := time.Now().Add(wait)
	for len(members[0].seen().messages)+len(members[1].seen().messages) < 40 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	publisher.publish(base+"-end", []byte(end), 1, false, nil)
	for _, member := range members {
		share := member.seen().receiveToEnd()
		if len(share) == 0 {
			panic("one member got all")
		}
		for _, m := range share {
			i, err := strconv.Atoi(m.payload)
			check(err)
			all = append(all, i)
		}
		member.close()
	}
	sort.Ints(all)
	equal(all, want, "both shares together")
	publisher.close()
}

func large(version int, base string) {
	client := connect(version, base+"-c", guest())
	client.subscribe(base+"/#", 2, 0)
	payload := make([]byte, 1<<20)
	_, err := rand.Read(payload)
	check(err)
	for qos := range byte(3) {
		client.publish(base+"/x", payload, qos, false, nil)
		got := client.seen().receive()
		if got.payload != string(payload) || got.qos != qos {
			panic(fmt.Sprintf("1 MiB at QoS %d came back as %d bytes at QoS %d", qos, len(got.payload), got.qos))
		}
	}
	client.close()
}

func messageProperties(version int, base string) {
	client := connect(version, base+"-c", guest())
	client.subscribe(base+"/+", 1, 7)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	sent := properties{format: 1, expiry: 300, contentType: "text/plain; charset=utf-8", response: base + "/answers", correlation: string(all),
		user: []pair{{"b", "1"}, {"a", "2"}, {"b", "1"}, {"", "empty name"}, {"ключ", "значение"}}}
	client.publish(base+"/x", []byte("grüße"), 1, false, &sent)
	got := client.seen().receive().properties
	if got.expiry < 290 || got.expiry > 300 {
		panic(fmt.Sprintf("expiry %d", got.expiry))
	}
	want := sent
	want.identifier, want.expiry = 7, got.expiry
	equal(*got, want, "properties")
	client.close()
}

func wrongPassword(version int, base string) {
	want := envInt("MQTT_REFUSED_V3")
	if version == 5 {
		want = envInt("MQTT_REFUSED_V5")
	}
	equal(start(version, base+"-c", options{user: "guest", password: "wrong"}).seen().refused, want, "CONNACK")
}

func anonymous(version int, base string) {
	client := connect(version, base+"-c", options{})
	client.subscribe(base+"/x", 0, 0)
	client.publish(base+"/x", []byte("hello"), 0, false, nil)
	equal(client.seen().receive().payload, "hello", "payload")
	client.close()
}

// The messages without their properties, for comparison.
func plain(messages []message) []message {
	var out []message
	for _, m := range messages {
		m.properties = nil
		out = append(out, m)
	}
	return out
}

func equal(got, want any, what string) {
	if !reflect.DeepEqual(got, want) {
		panic(fmt.Sprintf("%s: got %.300q, want %.300q", what, fmt.Sprint(got), fmt.Sprint(want)))
	}
}

type scenario struct {
	name   string
	run    func(version int, base string)
	onlyV5 bool
}

var scenarios = []scenario{
	{"qos0", bothWays(0), false},
	{"qos1", bothWays(1), false},
	{"qos2", bothWays(2), false},
	{"retained", retained, false},
	{"will", lastWill, false},
	{"takeover", takeover, false},
	{"takeover-142", takeover142, true},
	{"offline-restart", offline("restart"), false},
	{"offline-kill9", offline("kill9"), false},
	{"shared", shared, false},
	{"payload-1mib", large, false},
	{"properties", messageProperties, true},
	{"wrong-password", wrongPassword, false},
	{"anonymous", anonymous, false},
}

func attempt(s scenario, version int, tag string) (ok bool) {
	defer func() {
		if failure := recover(); failure != nil {
			fmt.Printf("not ok - %s/%s: %v\n", tag, s.name, failure)
			debug.PrintStack()
		}
	}()
	s.run(version, "go-"+tag+"-"+s.name)
	fmt.Printf("ok - %s/%s\n", tag, s.name)
	return true
}

func main() {
	failed := 0
	for _, v := range []struct {
		version int
		tag     string
	}{{4, "v311"}, {5, "v5"}} {
		for _, s := range scenarios {
			if s.onlyV5 && v.version != 5 {
				continue
			}
			if !attempt(s, v.version, v.tag) {
				failed++
			}
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}
