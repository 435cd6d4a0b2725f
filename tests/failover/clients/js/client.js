'use strict';
// MQTT.js with the addresses of both nodes in `servers`: what it prints and when it ends stands in ../python/client.py. It connects again by itself,
// to the next address, and sends again what is unconfirmed.

const mqtt = require('mqtt');

const name = process.argv[2];
const producer = process.env.PRODUCER;
const servers = process.env.HOSTS.split(',').map((host) => ({ host, port: 1883, protocol: 'mqtt' }));
const topic = `t/${name}`;
const confirmed = new Set();
const got = new Set();
let over = false;
let open = 0;
let n = 0;

const say = (line) => process.stdout.write(`${line}\n`);

function connect(suffix) {
  const v5 = name.endsWith('v5');
  return mqtt.connect({
    servers,
    clientId: `${name}-${suffix}`,
    protocolVersion: v5 ? 5 : 4,
    clean: false,
    properties: v5 ? { sessionExpiryInterval: 0xffffffff } : undefined,
    reconnectPeriod: 20,
    // Else it ends for good when a standby says who is primary.
    reconnectOnConnackError: true,
    connectTimeout: 1000,
    keepalive: 4,
  });
}

const consumer = connect('consumer');
const publisher = connect('publisher');
for (const client of [consumer, publisher]) {
  client.on('error', (error) => say(`refused ${client.options.host} ${error.message}`));
}
consumer.on('message', (_, body) => {
  const words = body.toString().split(' ');
  if (words[0] === producer) {
    got.add(Number(words[1]));
    say(`got ${words[1]}`);
  }
});
publisher.on('connect', () => say(`at ${publisher.options.host}`));

function publish() {
  if (over || open >= 10) return;
  n += 1;
  open += 1;
  const number = n;
  say(`sent ${number}`);
  publisher.publish(topic, `${producer} ${number} ${'x'.repeat(80)}`, { qos: 1 }, (error) => {
    open -= 1;
    if (error) return;
    confirmed.add(number);
    say(`confirmed ${number}`);
  });
}

function begin() {
  consumer.subscribe(topic, { qos: 1 }, (error) => (error ? setTimeout(begin, 20) : setInterval(publish, 10)));
}
begin();
process.stdin.resume();
process.stdin.on('end', () => {
  over = true;
  const deadline = Date.now() + 20000;
  setInterval(() => {
    const missing = [...confirmed].filter((number) => !got.has(number));
    if ((open > 0 || missing.length > 0) && Date.now() < deadline) return;
    say(`end ${confirmed.size} ${missing.length} ${missing.slice(0, 5).join(' ')}`);
    process.exit(missing.length > 0 ? 1 : 0);
  }, 100);
});
