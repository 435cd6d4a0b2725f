package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"reflect"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const wait = 20 * time.Second

var opened []*amqp.Connection

func address() string {
	return net.JoinHostPort(env("AMQP_HOST"), env("AMQP_PORT"))
}

func dialAs(user, password string, config amqp.Config) (*amqp.Connection, error) {
	at := url.URL{Scheme: "amqp", User: url.UserPassword(user, password), Host: address(), Path: "/"}
	if config.Dial == nil {
		config.Dial = amqp.DefaultDial(wait)
	}
	return amqp.DialConfig(at.String(), config)
}

func connectWith(config amqp.Config) *amqp.Connection {
	connection, err := dialAs(env("AMQP_USER"), env("AMQP_PASSWORD"), config)
	check(err)
	opened = append(opened, connection)
	return connection
}

func connect() *amqp.Connection {
	return connectWith(amqp.Config{})
}

// A channel with the calls of the scenarios in short, which panic on an error.
type channel struct {
	*amqp.Channel
}

func channelOf(connection *amqp.Connection) channel {
	ch, err := connection.Channel()
	check(err)
	return channel{ch}
}

type kind struct {
	durable, autoDelete, exclusive bool
	arguments                      amqp.Table
}

func (ch channel) declare(name string, k kind) string {
	queue, err := ch.QueueDeclare(name, k.durable, k.autoDelete, k.exclusive, false, k.arguments)
	check(err)
	return queue.Name
}

func (ch channel) count(queue string) int {
	found, err := ch.QueueDeclarePassive(queue, false, false, false, false, nil)
	check(err)
	return found.Messages
}

func (ch channel) drop(queue string) int {
	count, err := ch.QueueDelete(queue, false, false, false)
	check(err)
	return count
}

func (ch channel) send(exchange, key string, message amqp.Publishing) {
	check(ch.PublishWithContext(context.Background(), exchange, key, false, false, message))
}

// Returns once the broker has confirmed it.
func (ch channel) sendConfirmed(exchange, key string, mandatory bool, message amqp.Publishing) {
	confirmation, err := ch.PublishWithDeferredConfirmWithContext(context.Background(), exchange, key, mandatory, false, message)
	check(err)
	limit, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	acked, err := confirmation.WaitContext(limit)
	check(err)
	equal(acked, true, "confirm")
}

func (ch channel) consume(queue string, autoAck bool) <-chan amqp.Delivery {
	deliveries, err := ch.Consume(queue, "", autoAck, false, false, false, nil)
	check(err)
	return deliveries
}

// Basic.get, with an acknowledgement left to the caller.
func (ch channel) take(queue string) (amqp.Delivery, bool) {
	delivery, found, err := ch.Get(queue, false)
	check(err)
	return delivery, found
}

// Cancels all of the channel's consumers by closing it.
func (ch channel) close() {
	check(ch.Channel.Close())
}

func next[T any](from <-chan T, what string) T {
	select {
	case value, ok := <-from:
		if !ok {
			panic(what + ": the connection or channel has ended")
		}
		return value
	case <-time.After(wait):
		panic(what + " did not come")
	}
}

func text(body string) amqp.Publishing {
	return amqp.Publishing{Body: []byte(body)}
}

func unique(what string) string {
	random := make([]byte, 4)
	_, err := rand.Read(random)
	check(err)
	return fmt.Sprintf("amqp091-go.%s.%x", what, random)
}

func refused(err error, code int) *amqp.Error {
	var refusal *amqp.Error
	if !errors.As(err, &refusal) {
		panic(fmt.Sprintf("want a refusal with %d, got %v", code, err))
	}
	equal(refusal.Code, code, refusal.Reason)
	return refusal
}

func control(command string) {
	connection, err := net.DialTimeout("tcp", env("AMQP_CONTROL"), wait)
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

func check(err error) {
	if err != nil {
		panic(err.Error())
	}
}

func equal(got, want any, what string) {
	if !reflect.DeepEqual(got, want) {
		panic(fmt.Sprintf("%s: got %.300q, want %.300q", what, fmt.Sprint(got), fmt.Sprint(want)))
	}
}
