// RabbitMQ's client for Go with the addresses of both nodes: what it prints and when it ends stands in ../python/client.py.
//
// The library has neither a list of addresses nor recovery: whoever uses it dials the next one when NotifyClose says so.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const queue = "fo-amqp091-go"
const key = "t.amqp091-go"

var (
	hosts     = strings.Split(os.Getenv("HOSTS"), ",")
	producer  = os.Getenv("PRODUCER")
	lock      sync.Mutex
	confirmed = map[int]bool{}
	got       = map[int]bool{}
	over      atomic.Bool
	stopped   atomic.Bool
	ready     = make(chan struct{})
	once      sync.Once
)

func say(format string, what ...any) {
	lock.Lock()
	defer lock.Unlock()
	fmt.Printf(format+"\n", what...)
}

func note(set map[int]bool, word string, n int) {
	lock.Lock()
	set[n] = true
	lock.Unlock()
	say("%s %d", word, n)
}

func forever(work func(*amqp.Channel, string) error) {
	for at := 0; !stopped.Load(); at++ {
		host := hosts[at%len(hosts)]
		dial := func(network, address string) (net.Conn, error) { return net.DialTimeout(network, address, time.Second) }
		config := amqp.Config{Heartbeat: 2 * time.Second, Dial: dial}
		connection, err := amqp.DialConfig("amqp://app:app@"+host+":5672/", config)
		if err == nil {
			var channel *amqp.Channel
			if channel, err = connection.Channel(); err == nil {
				err = work(channel, host)
			}
			connection.Close()
		}
		if err != nil && strings.Contains(err.Error(), "stands by") {
			say("refused %s %v", host, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func declare(channel *amqp.Channel) error {
	if _, err := channel.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		return err
	}
	return channel.QueueBind(queue, key, "amq.topic", false, nil)
}

func consume(channel *amqp.Channel, _ string) error {
	if err := declare(channel); err != nil {
		return err
	}
	once.Do(func() { close(ready) })
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	for delivery := range deliveries {
		words := strings.Fields(string(delivery.Body))
		if n, err := strconv.Atoi(words[1]); err == nil && words[0] == producer {
			note(got, "got", n)
		}
		if err := delivery.Ack(false); err != nil {
			return err
		}
	}
	return nil
}

var next, open = 0, false

func publish(channel *amqp.Channel, host string) error {
	if err := channel.Confirm(false); err != nil {
		return err
	}
	say("at %s", host)
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	<-ready
	for !over.Load() || open {
		if !open {
			next++
			open = true
		}
		say("sent %d", next)
		body := []byte(fmt.Sprintf("%s %d %s", producer, next, strings.Repeat("x", 80)))
		message := amqp.Publishing{Body: body, DeliveryMode: amqp.Persistent}
		confirm, err := channel.PublishWithDeferredConfirm("amq.topic", key, false, false, message)
		if err != nil {
			return err
		}
		select {
		case <-confirm.Done():
			if !confirm.Acked() {
				return fmt.Errorf("not confirmed")
			}
		case err := <-closed:
			return err
		}
		note(confirmed, "confirmed", next)
		open = false
		time.Sleep(10 * time.Millisecond)
	}
	for !stopped.Load() {
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

func missing() int {
	lock.Lock()
	defer lock.Unlock()
	count := 0
	for n := range confirmed {
		if !got[n] {
			count++
		}
	}
	return count
}

func main() {
	go forever(consume)
	go forever(publish)
	_, _ = io.Copy(io.Discard, os.Stdin)
	over.Store(true)
	for deadline := time.Now().Add(20 * time.Second); missing() > 0 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	stopped.Store(true)
	say("end %d %d", len(confirmed), missing())
	if missing() > 0 {
		os.Exit(1)
	}
}
