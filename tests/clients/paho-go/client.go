package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

const (
	wait = 10 * time.Second
	end  = "end"
)

// What both libraries have in common, as the scenarios use it.
type client interface {
	subscribe(filter string, qos byte, identifier int)
	publish(topic string, payload []byte, qos byte, retain bool, properties *properties)
	cut()
	close()
	seen() *state
}

type message struct {
	topic      string
	payload    string
	qos        byte
	retain     bool
	properties *properties
}

type pair struct{ name, value string }

// The properties of version 5 that travel with a message.
type properties struct {
	format      byte
	expiry      uint32
	contentType string
	response    string
	correlation string
	user        []pair
	identifier  int
}

// What a connection has seen.
type state struct {
	present  bool
	refused  int
	messages chan message
	ended    chan struct{}
	reason   chan byte
}

func newState() *state {
	return &state{messages: make(chan message, 1000), ended: make(chan struct{}, 10), reason: make(chan byte, 10)}
}

func (s *state) receive() message {
	select {
	case m := <-s.messages:
		return m
	case <-time.After(wait):
		panic(fmt.Sprintf("no message within %v", wait))
	}
}

// All up to the marker that the test publishes last.
func (s *state) receiveToEnd() []message {
	var got []message
	for {
		m := s.receive()
		if m.payload == end {
			return got
		}
		got = append(got, m)
	}
}

func (s *state) awaitEnd() {
	select {
	case <-s.ended:
	case <-time.After(wait):
		panic(fmt.Sprintf("the connection did not end within %v", wait))
	}
}

type will struct {
	topic, payload string
}

type options struct {
	keep     bool
	user     string
	password string
	will     *will
}

func guest() options {
	return options{user: env("MQTT_USER"), password: env("MQTT_PASSWORD")}
}

func connect(version int, name string, o options) client {
	c := start(version, name, o)
	if c.seen().refused != 0 {
		panic(fmt.Sprintf("CONNACK %d", c.seen().refused))
	}
	return c
}

func start(version int, name string, o options) client {
	if version == 5 {
		return startV5(name, o)
	}
	return startV3(name, o)
}

func dial() net.Conn {
	connection, err := net.DialTimeout("tcp", address(), wait)
	check(err)
	return connection
}

func address() string {
	return net.JoinHostPort(env("MQTT_HOST"), env("MQTT_PORT"))
}

func control(command string) {
	connection, err := net.DialTimeout("tcp", env("MQTT_CONTROL"), wait)
	check(err)
	defer connection.Close()
	check(connection.SetDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintln(connection, command)
	check(err)
	answer, err := bufio.NewReader(connection).ReadString('\n')
	check(err)
	equal(answer, "ok\n", command)
}

func env(name string) string {
	value, ok := os.LookupEnv(name)
	if !ok {
		panic(name + " is not set")
	}
	return value
}

func envInt(name string) int {
	value, err := strconv.Atoi(env(name))
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err.Error())
	}
}
