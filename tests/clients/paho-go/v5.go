package main

import (
	"context"
	"net"

	"github.com/eclipse/paho.golang/paho"
)

// paho.golang, for 5.
type clientV5 struct {
	*state
	mqtt       *paho.Client
	connection net.Conn
}

func startV5(name string, o options) client {
	c := &clientV5{state: newState(), connection: dial()}
	c.mqtt = paho.NewClient(paho.ClientConfig{
		Conn:          c.connection,
		PacketTimeout: wait,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(received paho.PublishReceived) (bool, error) {
			c.messages <- fromPaho(received.Packet)
			return true, nil
		}},
		OnServerDisconnect: func(d *paho.Disconnect) {
			c.reason <- d.ReasonCode
			c.ended <- struct{}{}
		},
		OnClientError: func(error) { c.ended <- struct{}{} },
	})
	expiry := uint32(0)
	if o.keep {
		expiry = 3600
	}
	packet := &paho.Connect{ClientID: name, CleanStart: !o.keep, KeepAlive: 30, Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry}}
	if o.user != "" {
		packet.Username, packet.UsernameFlag = o.user, true
		packet.Password, packet.PasswordFlag = []byte(o.password), true
	}
	if o.will != nil {
		packet.WillMessage = &paho.WillMessage{Topic: o.will.topic, Payload: []byte(o.will.payload), QoS: 1}
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	connack, err := c.mqtt.Connect(ctx, packet)
	if connack == nil {
		check(err)
	}
	if connack.ReasonCode != 0 {
		c.refused = int(connack.ReasonCode)
		return c
	}
	check(err)
	c.present = connack.SessionPresent
	return c
}

func fromPaho(p *paho.Publish) message {
	m := message{topic: p.Topic, payload: string(p.Payload), qos: p.QoS, retain: p.Retain, properties: &properties{}}
	if p.Properties == nil {
		return m
	}
	m.properties.contentType = p.Properties.ContentType
	m.properties.response = p.Properties.ResponseTopic
	m.properties.correlation = string(p.Properties.CorrelationData)
	if p.Properties.PayloadFormat != nil {
		m.properties.format = *p.Properties.PayloadFormat
	}
	if p.Properties.MessageExpiry != nil {
		m.properties.expiry = *p.Properties.MessageExpiry
	}
	if p.Properties.SubscriptionIdentifier != nil {
		m.properties.identifier = *p.Properties.SubscriptionIdentifier
	}
	for _, user := range p.Properties.User {
		m.properties.user = append(m.properties.user, pair{user.Key, user.Value})
	}
	return m
}

func (c *clientV5) seen() *state { return c.state }

func (c *clientV5) subscribe(filter string, qos byte, identifier int) {
	packet := &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: qos}}}
	if identifier != 0 {
		packet.Properties = &paho.SubscribeProperties{SubscriptionIdentifier: &identifier}
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	suback, err := c.mqtt.Subscribe(ctx, packet)
	check(err)
	equal(suback.Reasons, []byte{qos}, "SUBACK")
}

func (c *clientV5) publish(topic string, payload []byte, qos byte, retain bool, p *properties) {
	packet := &paho.Publish{Topic: topic, Payload: payload, QoS: qos, Retain: retain}
	if p != nil {
		packet.Properties = &paho.PublishProperties{PayloadFormat: &p.format, MessageExpiry: &p.expiry, ContentType: p.contentType,
			ResponseTopic: p.response, CorrelationData: []byte(p.correlation)}
		for _, user := range p.user {
			packet.Properties.User.Add(user.name, user.value)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	_, err := c.mqtt.Publish(ctx, packet)
	check(err)
}

func (c *clientV5) cut() { check(c.connection.Close()) }

func (c *clientV5) close() { check(c.mqtt.Disconnect(&paho.Disconnect{ReasonCode: 0})) }
