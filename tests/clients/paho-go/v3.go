package main

import (
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// paho.mqtt.golang, for 3.1.1.
type clientV3 struct {
	*state
	mqtt       mqtt.Client
	connection net.Conn
}

func startV3(name string, o options) client {
	c := &clientV3{state: newState()}
	config := mqtt.NewClientOptions().AddBroker("tcp://" + address()).SetClientID(name).SetProtocolVersion(4)
	config.SetCleanSession(!o.keep).SetAutoReconnect(false).SetKeepAlive(30 * time.Second).SetConnectTimeout(wait)
	config.SetUsername(o.user).SetPassword(o.password)
	config.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
		connection, err := net.DialTimeout("tcp", address(), wait)
		c.connection = connection
		return connection, err
	})
	config.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		c.messages <- message{topic: m.Topic(), payload: string(m.Payload()), qos: m.Qos(), retain: m.Retained()}
	})
	config.SetConnectionLostHandler(func(mqtt.Client, error) { c.ended <- struct{}{} })
	if o.will != nil {
		config.SetWill(o.will.topic, o.will.payload, 1, false)
	}
	c.mqtt = mqtt.NewClient(config)
	token := c.mqtt.Connect().(*mqtt.ConnectToken)
	if !token.WaitTimeout(wait) {
		panic("no CONNACK")
	}
	c.refused = int(token.ReturnCode())
	if c.refused == 0 {
		check(token.Error())
	}
	c.present = token.SessionPresent()
	return c
}

func (c *clientV3) seen() *state { return c.state }

func (c *clientV3) subscribe(filter string, qos byte, _ int) {
	token := c.mqtt.Subscribe(filter, qos, nil).(*mqtt.SubscribeToken)
	done(token, "SUBACK")
	// The library keys a shared subscription's result by the filter inside it.
	for _, granted := range token.Result() {
		equal(granted, qos, "granted QoS")
	}
}

func (c *clientV3) publish(topic string, payload []byte, qos byte, retain bool, _ *properties) {
	done(c.mqtt.Publish(topic, qos, retain, payload), "the answer to "+topic)
}

func (c *clientV3) cut() { check(c.connection.Close()) }

func (c *clientV3) close() { c.mqtt.Disconnect(50) }

func done(token mqtt.Token, what string) {
	if !token.WaitTimeout(wait) {
		panic("no " + what)
	}
	check(token.Error())
}
