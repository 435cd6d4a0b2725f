// RabbitMQ's client for Go, amqp091-go, against a broker. Prints a TAP line per scenario.
package main

import (
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func confirms() {
	ch := channelOf(connect())
	queue := ch.declare(unique("confirms"), kind{durable: true})
	check(ch.Confirm(false))
	confirmed := ch.NotifyPublish(make(chan amqp.Confirmation, 100))
	for n := range 100 {
		ch.send("", queue, amqp.Publishing{Body: []byte(strconv.Itoa(n)), DeliveryMode: amqp.Persistent})
	}
	for n := range 100 {
		equal(next(confirmed, "a confirm"), amqp.Confirmation{DeliveryTag: uint64(n + 1), Ack: true}, "confirm")
	}
	equal(ch.count(queue), 100, "messages")
	equal(ch.drop(queue), 100, "messages deleted")
}

func consumeAck() {
	ch := channelOf(connect())
	queue := ch.declare(unique("consume"), kind{durable: true})
	for n := range 200 {
		ch.send("", queue, text(strconv.Itoa(n)))
	}
	check(ch.Qos(10, 0, false))
	deliveries := ch.consume(queue, false)
	for n := range 200 {
		delivery := next(deliveries, "a delivery")
		equal(string(delivery.Body), strconv.Itoa(n), "order")
		check(delivery.Ack(false))
	}
	equal(ch.count(queue), 0, "messages")
	ch.drop(queue)
}

func redelivery() {
	queue := unique("redelivery")
	var socket net.Conn
	first := connectWith(amqp.Config{Dial: func(network, at string) (net.Conn, error) {
		var err error
		socket, err = amqp.DefaultDial(wait)(network, at)
		return socket, err
	}})
	ch := channelOf(first)
	ch.declare(queue, kind{durable: true})
	ch.send("", queue, text("again"))
	delivery, _ := ch.take(queue)
	equal(delivery.Redelivered, false, "redelivered at first")
	// The connection is lost with the delivery in hand.
	check(socket.Close())
	second := connect()
	consuming := channelOf(second)
	delivery = next(consuming.consume(queue, false), "a delivery")
	equal([]any{string(delivery.Body), delivery.Redelivered}, []any{"again", true}, "redelivered")
	check(delivery.Nack(false, true))
	consuming.close()
	ch = channelOf(second)
	delivery, found := ch.take(queue)
	equal([]any{found, delivery.Redelivered}, []any{true, true}, "after a nack")
	check(delivery.Reject(false))
	_, found = ch.take(queue)
	equal(found, false, "after the reject")
	ch.drop(queue)
}

func mandatory() {
	ch := channelOf(connect())
	check(ch.Confirm(false))
	returns := ch.NotifyReturn(make(chan amqp.Return, 2))
	nobody := unique("nobody")
	ch.sendConfirmed("", nobody, true, text("back"))
	returned := next(returns, "the return")
	equal([]any{returned.ReplyCode, returned.ReplyText, returned.RoutingKey, string(returned.Body)}, []any{uint16(312), "NO_ROUTE", nobody, "back"}, "return")
	ch.sendConfirmed("", nobody, false, text("gone"))
	equal(len(returns), 0, "returns")
}

func deadLetter() {
	ch := channelOf(connect())
	queue, dead, exchange := unique("source"), unique("dead"), unique("dlx")
	check(ch.ExchangeDeclare(exchange, "fanout", false, false, false, false, nil))
	ch.declare(dead, kind{durable: true})
	check(ch.QueueBind(dead, "", exchange, false, nil))
	ch.declare(queue, kind{durable: true, arguments: amqp.Table{"x-dead-letter-exchange": exchange, "x-message-ttl": 1}})
	ch.send("", queue, amqp.Publishing{Body: []byte("late"), Headers: amqp.Table{"mine": "kept"}})
	delivery := next(ch.consume(dead, true), "the dead letter")
	equal(string(delivery.Body), "late", "body")
	equal(delivery.Headers["mine"], "kept", "header")
	deaths, ok := delivery.Headers["x-death"].([]any)
	if !ok || len(deaths) != 1 {
		panic(fmt.Sprintf("x-death: %v", delivery.Headers))
	}
	death := deaths[0].(amqp.Table)
	equal([]any{death["reason"], death["queue"], death["exchange"], death["count"]}, []any{"expired", queue, "", int64(1)}, "x-death")
	equal(death["routing-keys"], []any{queue}, "routing keys")
	if when, ok := death["time"].(time.Time); !ok || time.Since(when).Abs() > time.Minute {
		panic(fmt.Sprintf("time of the x-death: %v", death["time"]))
	}
	equal(delivery.Headers["x-first-death-reason"], "expired", "first reason")
	ch.drop(queue)
	ch.drop(dead)
	check(ch.ExchangeDelete(exchange, false, false))
}

func ttl() {
	ch := channelOf(connect())
	queue := ch.declare(unique("ttl"), kind{durable: true})
	ch.send("", queue, amqp.Publishing{Body: []byte("short"), Expiration: "100"})
	ch.send("", queue, amqp.Publishing{Body: []byte("long"), Expiration: "60000"})
	time.Sleep(2200 * time.Millisecond)
	delivery, _ := ch.take(queue)
	equal([]any{string(delivery.Body), delivery.Expiration}, []any{"long", "60000"}, "what stayed")
	ch.drop(queue)
}

func serverNamed() {
	connection, other := connect(), connect()
	ch := channelOf(connection)
	queue := ch.declare("", kind{exclusive: true})
	if !strings.HasPrefix(queue, "amq.gen-") {
		panic("named " + queue)
	}
	check(ch.QueueBind(queue, "a.*", "amq.topic", false, nil))
	deliveries := ch.consume(queue, true)
	ch.send("amq.topic", "a.b.c", text("not"))
	ch.send("amq.topic", "a.b", text("routed"))
	delivery := next(deliveries, "a delivery")
	equal([]any{string(delivery.Body), delivery.Exchange, delivery.RoutingKey}, []any{"routed", "amq.topic", "a.b"}, "delivery")
	_, err := channelOf(other).QueueDeclarePassive(queue, false, false, false, false, nil)
	refused(err, amqp.ResourceLocked)
	check(connection.Close())
	_, err = channelOf(other).QueueDeclarePassive(queue, false, false, false, false, nil)
	refused(err, amqp.NotFound)
}

func rpc() {
	const replyTo = "amq.rabbitmq.reply-to"
	serving, asking := channelOf(connect()), channelOf(connect())
	queue := serving.declare(unique("rpc"), kind{exclusive: true})
	questions, answers := serving.consume(queue, true), asking.consume(replyTo, true)
	asking.send("", queue, amqp.Publishing{Body: []byte("question"), ReplyTo: replyTo, CorrelationId: "7"})
	question := next(questions, "the question")
	if string(question.Body) != "question" || !strings.HasPrefix(question.ReplyTo, replyTo+".") {
		panic(fmt.Sprintf("question: %v", question))
	}
	serving.send("", question.ReplyTo, amqp.Publishing{Body: []byte("answer"), CorrelationId: question.CorrelationId})
	answer := next(answers, "the answer")
	equal([]string{string(answer.Body), answer.CorrelationId}, []string{"answer", "7"}, "answer")
}

func large() {
	ch := channelOf(connect())
	queue := ch.declare(unique("large"), kind{durable: true})
	check(ch.Confirm(false))
	for _, size := range []int{0, 131_064, 131_065, 1 << 20, 5_000_000} {
		body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		ch.sendConfirmed("", queue, false, text(body))
		delivery, found := ch.take(queue)
		if !found || string(delivery.Body) != body {
			panic(fmt.Sprintf("%d bytes came back as %d", size, len(delivery.Body)))
		}
		check(delivery.Ack(false))
	}
	ch.drop(queue)
}

func transactions() {
	ch := channelOf(connect())
	queue := ch.declare(unique("tx"), kind{durable: true})
	check(ch.Tx())
	ch.send("", queue, text("no"))
	check(ch.TxRollback())
	ch.send("", queue, text("yes"))
	check(ch.TxCommit())
	equal(ch.count(queue), 1, "messages")
	delivery, _ := ch.take(queue)
	equal(string(delivery.Body), "yes", "body")
	check(delivery.Ack(false))
	check(ch.TxRollback())
	check(delivery.Ack(false))
	check(ch.TxCommit())
	equal(ch.drop(queue), 0, "messages left")
}

// Each kind of value that this library writes, and each property.
func properties() {
	ch := channelOf(connect())
	queue := ch.declare("", kind{exclusive: true})
	moment := time.Unix(1_700_000_000, 0).UTC()
	sent := amqp.Publishing{
		Headers: amqp.Table{
			"text": "grüße", "bytes": []byte{0, 255}, "yes": true, "no": false, "byte": int8(-3), "octet": byte(200), "short": int16(-300),
			"ushort": uint16(60_000), "int": int32(1 << 30), "uint": uint32(1 << 31), "long": int64(1) << 40, "float": float32(1.5),
			"double": 0.5, "nothing": nil, "time": moment, "decimal": amqp.Decimal{Scale: 2, Value: 12345},
			"list": []any{int32(1), "two", amqp.Table{"three": int64(3)}}, "table": amqp.Table{"inner": amqp.Table{"deep": "value"}},
		},
		ContentType: "text/plain", ContentEncoding: "identity", DeliveryMode: amqp.Persistent, Priority: 3, CorrelationId: "correlation",
		ReplyTo: "answers", Expiration: "60000", MessageId: "id", Timestamp: moment, Type: "kind", UserId: env("AMQP_USER"), AppId: "app",
		Body: []byte("body"),
	}
	ch.send("", queue, sent)
	got, _ := ch.take(queue)
	for key, value := range sent.Headers {
		if when, ok := got.Headers[key].(time.Time); ok {
			got.Headers[key] = when.UTC()
		}
		equal(got.Headers[key], value, key)
	}
	equal(len(got.Headers), len(sent.Headers), "headers")
	back := amqp.Publishing{
		Headers: sent.Headers, ContentType: got.ContentType, ContentEncoding: got.ContentEncoding, DeliveryMode: got.DeliveryMode,
		Priority: got.Priority, CorrelationId: got.CorrelationId, ReplyTo: got.ReplyTo, Expiration: got.Expiration, MessageId: got.MessageId,
		Timestamp: got.Timestamp.UTC(), Type: got.Type, UserId: got.UserId, AppId: got.AppId, Body: got.Body,
	}
	equal(back, sent, "message")
}

// Twenty channels of one connection publish and consume side by side.
func channels() {
	connection := connect()
	var all sync.WaitGroup
	failures := make(chan any, 20)
	for range 20 {
		all.Add(1)
		go func() {
			defer all.Done()
			defer func() {
				if failure := recover(); failure != nil {
					failures <- failure
				}
			}()
			ch := channelOf(connection)
			check(ch.Confirm(false))
			queue := ch.declare("", kind{exclusive: true})
			deliveries := ch.consume(queue, true)
			for n := range 50 {
				ch.sendConfirmed("", queue, false, text(strconv.Itoa(n)))
				equal(string(next(deliveries, "a delivery").Body), strconv.Itoa(n), "order")
			}
			ch.close()
		}()
	}
	all.Wait()
	if len(failures) > 0 {
		panic(<-failures)
	}
}

func cancelNotify() {
	ch, other := channelOf(connect()), channelOf(connect())
	queue := ch.declare(unique("cancelled"), kind{durable: true})
	cancelled := ch.NotifyCancel(make(chan string, 1))
	deliveries, err := ch.Consume(queue, "me", false, false, false, false, nil)
	check(err)
	other.drop(queue)
	equal(next(cancelled, "the cancel"), "me", "tag")
	select {
	case _, more := <-deliveries:
		equal(more, false, "more deliveries")
	case <-time.After(wait):
		panic("the deliveries go on")
	}
	// The channel takes the answer to the cancel, and goes on.
	ch.declare("", kind{exclusive: true})
}

func wrongPassword() {
	_, err := dialAs("guest", "wrong", amqp.Config{})
	refused(err, amqp.AccessRefused)
	_, err = dialAs(env("AMQP_USER"), env("AMQP_PASSWORD"), amqp.Config{Vhost: "nope"})
	refused(err, amqp.NotAllowed)
}

// The library connects again by itself and makes queue, binding and consumer anew.
func recovery() {
	connection := connectWith(amqp.Config{Recovery: &amqp.Recovery{}})
	ch := channelOf(connection)
	states := make(chan *amqp.StateChanged, 100)
	connection.NotifyStateChange(states)
	queue := ch.declare(unique("recovery"), kind{exclusive: true})
	check(ch.QueueBind(queue, "recovered", "amq.direct", false, nil))
	deliveries := ch.consume(queue, true)
	control("restart")
	for next(states, "the new connection").To != amqp.StateOpen {
	}
	sending := channelOf(connect())
	check(sending.Confirm(false))
	sending.sendConfirmed("amq.direct", "recovered", true, text("back again"))
	equal(string(next(deliveries, "a delivery").Body), "back again", "body")
}

func cleanClose() {
	connection := connect()
	ch := channelOf(connection)
	ended := connection.NotifyClose(make(chan *amqp.Error, 1))
	ch.close()
	channelOf(connection).declare("", kind{exclusive: true})
	check(connection.CloseDeadline(time.Now().Add(wait)))
	select {
	case why := <-ended:
		equal(why, (*amqp.Error)(nil), "why it ended")
	case <-time.After(wait):
		panic("it did not end")
	}
}

func dirtyClose() {
	ch := channelOf(connect())
	queue := ch.declare(unique("dirty"), kind{durable: true})
	cut, err := net.DialTimeout("tcp", address(), wait)
	check(err)
	_, err = cut.Write([]byte("AMQP\x00\x00\x09\x01\x01\x00\x00"))
	check(err)
	check(cut.Close())
	wrong, err := net.DialTimeout("tcp", address(), wait)
	check(err)
	defer wrong.Close()
	check(wrong.SetDeadline(time.Now().Add(wait)))
	_, err = wrong.Write([]byte("GET / HTTP/1.1\r\n"))
	check(err)
	answer := make([]byte, 8)
	_, err = wrong.Read(answer)
	check(err)
	equal(string(answer), "AMQP\x00\x00\x09\x01", "header")
	ch.drop(queue)
}

func restartKill9() {
	ch := channelOf(connect())
	queue := ch.declare(unique("restart"), kind{durable: true})
	check(ch.Confirm(false))
	for n := range 50 {
		ch.sendConfirmed("", queue, false, amqp.Publishing{Body: []byte(strconv.Itoa(n)), DeliveryMode: amqp.Persistent})
	}
	control("kill9")
	ch = channelOf(connect())
	deliveries := ch.consume(queue, true)
	for n := range 50 {
		equal(string(next(deliveries, "a delivery").Body), strconv.Itoa(n), "order")
	}
	equal(ch.drop(queue), 0, "messages left")
}

var scenarios = []struct {
	name string
	run  func()
}{
	{"confirms", confirms},
	{"consume-ack", consumeAck},
	{"redelivery", redelivery},
	{"mandatory", mandatory},
	{"dead-letter", deadLetter},
	{"ttl", ttl},
	{"server-named", serverNamed},
	{"rpc", rpc},
	{"large", large},
	{"tx", transactions},
	{"properties", properties},
	{"channels", channels},
	{"cancel-notify", cancelNotify},
	{"wrong-password", wrongPassword},
	{"clean-close", cleanClose},
	{"dirty-close", dirtyClose},
	{"restart-kill9", restartKill9},
	{"recovery", recovery},
}

func attempt(name string, run func()) (ok bool) {
	defer func() {
		if failure := recover(); failure != nil {
			fmt.Printf("not ok - %s: %v\n", name, failure)
			debug.PrintStack()
		}
		for _, connection := range opened {
			_ = connection.CloseDeadline(time.Now().Add(time.Second))
		}
		opened = nil
	}()
	// A call that is never answered ends the program; what it did not report has failed.
	late := time.AfterFunc(3*wait, func() { panic(name + " does not end") })
	defer late.Stop()
	run()
	fmt.Printf("ok - %s\n", name)
	return true
}

func main() {
	failed := 0
	for _, s := range scenarios {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], s.name) {
			continue
		}
		if !attempt(s.name, s.run) {
			failed++
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}
