// MQTT.js against a broker, over MQTT 3.1.1 and 5, over TCP and WebSocket.
"use strict";

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const fs = require("node:fs");
const net = require("node:net");
const readline = require("node:readline");
const mqtt = require("mqtt");

const { MQTT_HOST: host, MQTT_PORT: port, WEB_MQTT_URL, WEB_TLS_PORT, MQTT_TLS_PORT, TLS_DIR, MQTT_USER: username, MQTT_PASSWORD: password, MQTT_CONTROL, MQTT_REFUSED_V3, MQTT_REFUSED_V5 } = process.env;
const WAIT = 10_000;
const END = Buffer.from("end");
/** Where the current scenarios go. */
let url = `mqtt://${host}:${port}`;

/** Values that arrive by callback, to be awaited in order. */
class Mailbox {
  #values = [];
  #takers = [];

  get waiting() {
    return this.#values.length;
  }

  put(value) {
    const taker = this.#takers.shift();
    if (taker) taker(value);
    else this.#values.push(value);
  }

  take(what) {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift());
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${what} did not come within ${WAIT} ms`)), WAIT);
      this.#takers.push((value) => {
        clearTimeout(timer);
        resolve(value);
      });
    });
  }
}

/** One connection; what it receives waits in a mailbox. */
class Client {
  static async connect(version, clientId, { clean = true, credentials = { username, password }, will } = {}) {
    const client = await Client.start(version, clientId, { clean, credentials, will });
    const connack = await client.connack;
    if (connack instanceof Error) throw connack;
    client.sessionPresent = connack.sessionPresent;
    return client;
  }

  /** Connects and leaves the answer, a CONNACK or an Error, in `connack`. */
  static async start(version, clientId, { clean, credentials, will }) {
    const client = new Client();
    client.messages = new Mailbox();
    client.closes = new Mailbox();
    client.reason = undefined;
    const properties = version === 5 ? { sessionExpiryInterval: clean ? 0 : 3600 } : undefined;
    client.mqtt = mqtt.connect(url, { protocolVersion: version, clientId, clean, reconnectPeriod: 0, keepalive: 30, properties, will, ...credentials });
    client.mqtt.on("message", (_topic, _payload, packet) => client.messages.put(packet));
    client.mqtt.on("disconnect", (packet) => (client.reason = packet.reasonCode));
    client.mqtt.on("close", () => client.closes.put(true));
    client.connack = new Promise((resolve) => {
      client.mqtt.once("connect", resolve);
      client.mqtt.once("error", resolve);
    });
    client.mqtt.on("error", () => {});
    return client;
  }

  async subscribe(filter, qos, properties) {
    const granted = await this.mqtt.subscribeAsync(filter, { qos, properties });
    assert.deepEqual(granted.map((g) => g.qos), [qos], "SUBACK");
    return this;
  }

  publish(topic, payload, qos, { retain = false, properties } = {}) {
    return this.mqtt.publishAsync(topic, payload, { qos, retain, properties });
  }

  async receive(count) {
    const got = [];
    while (got.length < count) got.push(await this.messages.take("a message"));
    return got;
  }

  /** All up to the marker that the test publishes last. */
  async receiveToEnd() {
    const got = [];
    for (;;) {
      const packet = await this.messages.take(`the end marker after ${got.length} messages`);
      if (packet.payload.equals(END)) return got;
      got.push(packet);
    }
  }

  /** Closes the socket with no DISCONNECT, as a crash does. */
  cut() {
    this.mqtt.stream.destroy();
  }

  close() {
    return this.mqtt.endAsync();
  }
}

async function control(command) {
  const [controlHost, controlPort] = MQTT_CONTROL.split(":");
  const socket = net.connect(Number(controlPort), controlHost);
  socket.write(`${command}\n`);
  for await (const line of readline.createInterface({ input: socket })) {
    assert.equal(line, "ok", command);
    return;
  }
  throw new Error(`${command}: no answer`);
}

const texts = (packets) => packets.map((p) => p.payload.toString());
const numbers = (count) => Array.from({ length: count }, (_, i) => `${i}`);

const bothWays = (qos) => async (version, base) => {
  const subscriber = await (await Client.connect(version, `${base}-s`)).subscribe(`${base}/#`, qos);
  const publisher = await Client.connect(version, `${base}-p`);
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  const sent = numbers(20).map((i) => Buffer.concat([Buffer.from(`${i} `), bytes]));
  for (const [i, payload] of sent.entries()) await publisher.publish(`${base}/${i}`, payload, qos);
  await publisher.publish(`${base}/end`, END, qos);
  const got = await subscriber.receiveToEnd();
  assert.deepEqual(got.map((p) => p.payload), sent);
  assert.deepEqual(got.map((p) => [p.topic, p.qos, p.retain]), sent.map((_, i) => [`${base}/${i}`, qos, false]));
  await subscriber.close();
  await publisher.close();
};

async function retained(version, base) {
  const seen = (packets) => packets.map((p) => [p.topic, p.payload.toString(), p.retain]).sort();
  const client = await Client.connect(version, `${base}-p`);
  await client.publish(`${base}/a`, "first", 1, { retain: true });
  await client.publish(`${base}/a`, "second", 1, { retain: true });
  await client.publish(`${base}/b`, "other", 2, { retain: true });
  const early = await (await Client.connect(version, `${base}-1`)).subscribe(`${base}/+`, 1);
  assert.deepEqual(seen(await early.receive(2)), [[`${base}/a`, "second", true], [`${base}/b`, "other", true]]);
  await client.publish(`${base}/b`, "live", 1, { retain: true });
  assert.deepEqual(seen(await early.receive(1)), [[`${base}/b`, "live", false]]);
  await client.publish(`${base}/a`, "", 1, { retain: true });
  const late = await (await Client.connect(version, `${base}-2`)).subscribe(`${base}/#`, 1);
  await client.publish(`${base}/end`, END, 1);
  assert.deepEqual(seen(await late.receiveToEnd()), [[`${base}/b`, "live", true]]);
  await client.publish(`${base}/b`, "", 1, { retain: true });
  for (const c of [client, early, late]) await c.close();
}

async function will(version, base) {
  const watcher = await (await Client.connect(version, `${base}-w`)).subscribe(`${base}/#`, 1);
  const of = (name) => ({ topic: `${base}/${name}`, payload: Buffer.from(name), qos: 1, retain: false });
  await (await Client.connect(version, `${base}-polite`, { will: of("polite") })).close();
  (await Client.connect(version, `${base}-cut`, { will: of("gone") })).cut();
  const got = await watcher.receive(1);
  assert.deepEqual(got.map((p) => [p.topic, p.payload.toString(), p.qos, p.retain]), [[`${base}/gone`, "gone", 1, false]]);
  await watcher.close();
}

async function takeover(version, base) {
  const old = await (await Client.connect(version, `${base}-same`)).subscribe(`${base}/old`, 1);
  const young = await (await Client.connect(version, `${base}-same`)).subscribe(`${base}/new`, 1);
  await old.closes.take("the end of the old connection");
  assert.equal(young.sessionPresent, false);
  const other = await Client.connect(version, `${base}-other`);
  await other.publish(`${base}/old`, "for nobody", 1);
  await other.publish(`${base}/new`, "still here", 1);
  assert.deepEqual(texts(await young.receive(1)), ["still here"]);
  await young.close();
  await other.close();
  return old.reason;
}

async function takeover142(version, base) {
  assert.equal(await takeover(version, base), 142, "reason of the DISCONNECT");
}

const offline = (command) => async (version, base) => {
  let session = await Client.connect(version, `${base}-s`, { clean: false });
  assert.equal(session.sessionPresent, false, "session present at first");
  await session.subscribe(`${base}/#`, 2);
  await session.close();
  let publisher = await Client.connect(version, `${base}-p`);
  for (const i of numbers(50)) {
    await publisher.publish(`${base}/one`, i, 1);
    await publisher.publish(`${base}/two`, i, 2);
  }
  await control(command);
  await publisher.closes.take("the end of the publisher's connection");
  publisher = await Client.connect(version, `${base}-p`);
  await publisher.publish(`${base}/one`, "50", 1);
  await publisher.publish(`${base}/two`, "50", 2);
  session = await Client.connect(version, `${base}-s`, { clean: false });
  assert.equal(session.sessionPresent, true, "session present");
  await publisher.publish(`${base}/end`, END, 2);
  const got = await session.receiveToEnd();
  for (const [topic, qos] of [["one", 1], ["two", 2]]) {
    const mine = got.filter((p) => p.topic === `${base}/${topic}`);
    assert.deepEqual(texts(mine), numbers(51), topic);
    assert.ok(mine.every((p) => p.qos === qos), `QoS of ${topic}`);
  }
  await session.close();
  await (await Client.connect(version, `${base}-s`)).close();
  await publisher.close();
};

async function shared(version, base) {
  const members = [];
  for (const n of ["a", "b"]) {
    const member = await (await Client.connect(version, `${base}-${n}`)).subscribe(`$share/group/${base}/+`, 1);
    members.push(await member.subscribe(`${base}-end`, 1));
  }
  const publisher = await Client.connect(version, `${base}-p`);
  for (const i of numbers(40)) await publisher.publish(`${base}/x`, i, 1);
  const deadline = Date.now() + WAIT;
  const arrived = () => members.reduce((sum, member) => sum + member.messages.waiting, 0);
  while (arrived() < 40 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
  await publisher.publish(`${base}-end`, END, 1);
  const shares = [];
  for (const member of members) shares.push(texts(await member.receiveToEnd()).map(Number));
  assert.deepEqual(shares.flat().sort((a, b) => a - b), numbers(40).map(Number));
  assert.ok(shares.every((share) => share.length > 0), "one member got all");
  for (const c of [...members, publisher]) await c.close();
}

async function large(version, base) {
  const client = await (await Client.connect(version, `${base}-c`)).subscribe(`${base}/#`, 2);
  const payload = crypto.randomBytes(1 << 20);
  for (const qos of [0, 1, 2]) {
    await client.publish(`${base}/${qos}`, payload, qos);
    const [packet] = await client.receive(1);
    assert.ok(packet.payload.equals(payload) && packet.qos === qos, `1 MiB at QoS ${qos} came back as ${packet.payload.length} bytes`);
  }
  await client.close();
}

async function properties(version, base) {
  const client = await (await Client.connect(version, `${base}-c`)).subscribe(`${base}/+`, 1, { subscriptionIdentifier: 7 });
  // An object keeps one list per name here, so this client shows the order of the values of a name, not among names.
  const sent = {
    payloadFormatIndicator: true,
    contentType: "text/plain; charset=utf-8",
    responseTopic: `${base}/answers`,
    correlationData: Buffer.from(Array.from({ length: 256 }, (_, i) => i)),
    userProperties: { b: ["1", "3", "2", "1"], a: "2", ключ: "значение" },
  };
  await client.publish(`${base}/x`, "grüße", 1, { properties: { ...sent, messageExpiryInterval: 300 } });
  const [packet] = await client.receive(1);
  const { messageExpiryInterval: expiry, userProperties, ...got } = packet.properties;
  assert.ok(expiry >= 290 && expiry <= 300, `expiry ${expiry}`);
  const { userProperties: wantedUserProperties, ...wanted } = sent;
  assert.deepEqual({ ...userProperties }, wantedUserProperties);
  assert.deepEqual({ ...got }, { ...wanted, subscriptionIdentifier: 7 });
  await client.close();
}

async function wrongPassword(version, base) {
  const client = await Client.start(version, `${base}-c`, { clean: true, credentials: { username, password: "wrong" } });
  const error = await client.connack;
  assert.ok(error instanceof Error, "was let in");
  assert.equal(error.code, Number(version === 5 ? MQTT_REFUSED_V5 : MQTT_REFUSED_V3), `CONNACK: ${error.message}`);
  client.mqtt.end(true);
}

async function anonymous(version, base) {
  const client = await (await Client.connect(version, `${base}-c`, { credentials: {} })).subscribe(`${base}/x`, 0);
  await client.publish(`${base}/x`, "hello", 0);
  assert.deepEqual(texts(await client.receive(1)), ["hello"]);
  await client.close();
}

/** With the broker's certificate verified, over TCP and WebSocket; and not at all by who trusts somebody else. */
async function tls() {
  const ca = fs.readFileSync(`${TLS_DIR}/ca.pem`);
  for (const where of [`mqtts://${host}:${MQTT_TLS_PORT}`, `wss://${host}:${WEB_TLS_PORT}/mqtt`]) {
    const client = await mqtt.connectAsync(where, { ca, username, password, protocolVersion: 5, reconnectPeriod: 0 });
    const got = new Mailbox();
    client.on("message", (_topic, payload) => got.put(payload));
    await client.subscribeAsync("js-tls", { qos: 1 });
    const payload = crypto.randomBytes(300_000);
    await client.publishAsync("js-tls", payload, { qos: 1 });
    assert.ok((await got.take("the message")).equals(payload), where);
    await client.endAsync();
    await assert.rejects(mqtt.connectAsync(where, { username, password, reconnectPeriod: 0 }, false), /certificate/);
  }
}

/**
 * SCRAM-SHA-256 (RFC 5802, RFC 7677) as an authentication method of MQTT 5: CONNECT has the client's first message, AUTH the broker's
 * first and the client's final one, CONNACK the broker's final one. Answers the connection, or the Error by which it was refused.
 */
function connectByScram(clientId, password) {
  const hmac = (key, text) => crypto.createHmac("sha256", key).update(text).digest();
  const bare = `n=${username},r=${crypto.randomBytes(18).toString("base64")}`;
  const properties = { authenticationMethod: "SCRAM-SHA-256", authenticationData: Buffer.from(`n,,${bare}`) };
  const client = mqtt.connect(url, { protocolVersion: 5, clientId, reconnectPeriod: 0, properties });
  let expected;
  client.handleAuth = (packet, answer) => {
    const challenge = packet.properties.authenticationData.toString();
    const [nonce, salt, rounds] = challenge.split(",").map((part) => part.slice(2));
    const salted = crypto.pbkdf2Sync(password, Buffer.from(salt, "base64"), Number(rounds), 32, "sha256");
    const key = hmac(salted, "Client Key");
    const unsigned = `c=biws,r=${nonce}`;
    const exchange = `${bare},${challenge},${unsigned}`;
    const signature = hmac(crypto.createHash("sha256").update(key).digest(), exchange);
    const proof = Buffer.from(key.map((byte, i) => byte ^ signature[i])).toString("base64");
    expected = `v=${hmac(hmac(salted, "Server Key"), exchange).toString("base64")}`;
    answer(null, { cmd: "auth", reasonCode: 24, properties: { authenticationMethod: "SCRAM-SHA-256", authenticationData: Buffer.from(`${unsigned},p=${proof}`) } });
  };
  return new Promise((resolve) => {
    client.once("error", resolve);
    client.once("connect", (connack) => {
      // The broker proves that it knows the password, too.
      assert.equal(connack.properties.authenticationData.toString(), expected, "the broker's signature");
      resolve(client);
    });
    client.on("error", () => {});
  });
}

async function scram() {
  const client = await connectByScram("js-scram", password);
  if (client instanceof Error) throw client;
  const got = new Mailbox();
  client.on("message", (_topic, payload) => got.put(payload.toString()));
  await client.subscribeAsync("js-scram", { qos: 1 });
  await client.publishAsync("js-scram", "let in", { qos: 1 });
  assert.equal(await got.take("the message"), "let in");
  await client.endAsync();
  const refused = await connectByScram("js-scram-wrong", "wrong");
  assert.ok(refused instanceof Error, "was let in");
  // MQTT 5.0, 4.12: an exchange that fails ends in a CONNACK.
  assert.equal(refused.code, 134, `CONNACK: ${refused.message}`);
}

const SCENARIOS = {
  qos0: bothWays(0),
  qos1: bothWays(1),
  qos2: bothWays(2),
  retained,
  will,
  takeover,
  "takeover-142": takeover142,
  "offline-restart": offline("restart"),
  "offline-kill9": offline("kill9"),
  shared,
  "payload-1mib": large,
  properties,
  "wrong-password": wrongPassword,
  anonymous,
};
const ONLY_V5 = ["takeover-142", "properties"];

async function main() {
  let failed = 0;
  const tcp = url;
  for (const [version, tag, where] of [[4, "v311", tcp], [5, "v5", tcp], [4, "ws-v311", WEB_MQTT_URL], [5, "ws-v5", WEB_MQTT_URL]]) {
    url = where;
    for (const [name, scenario] of Object.entries(SCENARIOS)) {
      if (version === 4 && ONLY_V5.includes(name)) continue;
      try {
        await scenario(version, `js-${tag}-${name}`);
        console.log(`ok - ${tag}/${name}`);
      } catch (error) {
        failed += 1;
        console.log(`not ok - ${tag}/${name}: ${error.message.split("\n")[0]}`);
        console.error(error);
      }
    }
  }
  url = tcp;
  for (const [name, scenario] of Object.entries({ tls, scram })) {
    try {
      await scenario();
      console.log(`ok - ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`not ok - ${name}: ${error.message.split("\n")[0]}`);
      console.error(error);
    }
  }
  process.exit(failed === 0 ? 0 : 1);
}

main();
