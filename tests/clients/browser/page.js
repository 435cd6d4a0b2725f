// What the page does. `mqtt` and `StompJs` are the libraries' own bundles for browsers.
"use strict";

const WAIT = 15_000;
let settings;

const post = (where, body) => fetch(where, { method: "POST", body });
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A promise that does not wait for ever. */
function soon(promise, what) {
  const late = sleep(WAIT).then(() => Promise.reject(new Error(`${what} did not come within ${WAIT} ms`)));
  return Promise.race([promise, late]);
}

function equal(got, wanted, what) {
  const [a, b] = [got, wanted].map((value) => JSON.stringify(value));
  if (a !== b) throw new Error(`${what}: ${a?.slice(0, 200)} instead of ${b?.slice(0, 200)}`);
}

/** Values that arrive by callback, to be awaited in order. */
class Mailbox {
  values = [];
  takers = [];

  put(value) {
    const taker = this.takers.shift();
    if (taker) taker(value);
    else this.values.push(value);
  }

  take(what) {
    if (this.values.length > 0) return Promise.resolve(this.values.shift());
    return soon(new Promise((resolve) => this.takers.push(resolve)), what);
  }

  async many(count, what) {
    const got = [];
    while (got.length < count) got.push(await this.take(`${what} ${got.length}`));
    return got;
  }
}

class Mqtt {
  static async open(protocolVersion, more = {}) {
    const self = new Mqtt();
    self.messages = new Mailbox();
    self.connects = new Mailbox();
    const { user: username, password } = settings;
    self.client = mqtt.connect(settings.mqtt, { protocolVersion, username, password, reconnectPeriod: 0, ...more });
    self.client.on("message", (topic, payload, packet) => self.messages.put({ topic, payload, properties: packet.properties }));
    self.client.on("connect", (connack) => self.connects.put(connack));
    self.client.on("error", () => {});
    await self.connects.take("CONNACK");
    return self;
  }

  async subscribe(filter, qos) {
    await soon(this.client.subscribeAsync(filter, { qos }), "SUBACK");
    return this;
  }

  publish(topic, payload, more = {}) {
    return soon(this.client.publishAsync(topic, payload, { qos: 1, ...more }), "PUBACK");
  }

  close() {
    return soon(this.client.endAsync(), "the end of MQTT");
  }
}

class Stomp {
  static async open(more = {}) {
    const self = new Stomp();
    self.connects = new Mailbox();
    self.receipts = 0;
    const connectHeaders = { login: settings.user, passcode: settings.password };
    self.client = new StompJs.Client({ brokerURL: settings.stomp, connectHeaders, reconnectDelay: 0, onConnect: () => self.connects.put(true), ...more });
    self.client.activate();
    await self.connects.take("CONNECTED");
    return self;
  }

  /** Messages from here on: SUBSCRIBE is answered. */
  async subscribe(destination, headers = {}) {
    const messages = new Mailbox();
    const receipt = this.watched();
    this.client.subscribe(destination, (message) => messages.put(message), { ...headers, receipt: receipt.id });
    await receipt.came;
    return messages;
  }

  watched() {
    const id = `r${(this.receipts += 1)}`;
    const came = soon(new Promise((resolve) => this.client.watchForReceipt(id, resolve)), `the receipt ${id}`);
    return { id, came };
  }

  async send(destination, body, headers = {}, more = {}) {
    const receipt = this.watched();
    this.client.publish({ destination, body, headers: { ...headers, receipt: receipt.id }, ...more });
    await receipt.came;
  }

  close() {
    return soon(this.client.deactivate(), "the end of STOMP");
  }
}

const numbers = (count) => Array.from({ length: count }, (_, i) => `${i}`);
const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);

const mqttToStomp = (version) => async () => {
  const stomp = await Stomp.open();
  const messages = await stomp.subscribe(`/topic/page.${version}.*`);
  const publisher = await Mqtt.open(version);
  for (const i of numbers(100)) await publisher.publish(`page/${version}/x`, `grüße ${i} 😀`);
  const got = await messages.many(100, "message");
  equal(got.map((message) => message.body), numbers(100).map((i) => `grüße ${i} 😀`), "bodies");
  equal(got[0].headers.destination, `/topic/page.${version}.x`, "destination");
  await publisher.publish(`page/${version}/bytes`, bytes);
  const [message] = await messages.many(1, "message");
  equal([...message.binaryBody], [...bytes], "every byte");
  await publisher.close();
  await stomp.close();
};

const stompToMqtt = (version) => async () => {
  const subscriber = await (await Mqtt.open(version)).subscribe(`back/${version}/#`, 2);
  const stomp = await Stomp.open();
  for (const i of numbers(100)) await stomp.send(`/topic/back.${version}.x`, `grüße ${i} 😀`, { "content-type": "text/plain" });
  const got = await subscriber.messages.many(100, "message");
  equal(got.map(({ payload }) => new TextDecoder().decode(payload)), numbers(100).map((i) => `grüße ${i} 😀`), "payloads");
  equal(got[0].topic, `back/${version}/x`, "topic");
  if (version === 5) equal(got[0].properties.contentType, "text/plain", "content type");
  await stomp.send(`/topic/back.${version}.bytes`, undefined, {}, { binaryBody: bytes });
  const [message] = await subscriber.messages.many(1, "message");
  equal([...message.payload], [...bytes], "every byte");
  await subscriber.close();
  await stomp.close();
};

async function large() {
  const stomp = await Stomp.open();
  const messages = await stomp.subscribe("/topic/large");
  const subscriber = await (await Mqtt.open(5)).subscribe("large", 1);
  const payload = new Uint8Array(1 << 20);
  for (let at = 0; at < payload.length; at += 65_536) crypto.getRandomValues(payload.subarray(at, at + 65_536));
  await subscriber.publish("large", payload);
  const same = (got) => got.length === payload.length && got.every((byte, i) => byte === payload[i]);
  equal(same((await messages.take("the message over STOMP")).binaryBody), true, "1 MiB over STOMP");
  equal(same((await subscriber.messages.take("the message over MQTT")).payload), true, "1 MiB over MQTT");
  await stomp.send("/topic/large", "a".repeat(1 << 20));
  equal((await subscriber.messages.take("the text")).payload.length, 1 << 20, "1 MiB from STOMP");
  await subscriber.close();
  await stomp.close();
}

async function retainedAndQos2() {
  const first = await Mqtt.open(4);
  await first.publish("kept/here", "still", { qos: 2, retain: true });
  await first.close();
  const second = await (await Mqtt.open(5)).subscribe("kept/#", 2);
  equal(new TextDecoder().decode((await second.messages.take("the retained message")).payload), "still", "payload");
  await second.publish("kept/here", "", { retain: true });
  await second.close();
}

/** A page that is left says nothing to its protocol: the will goes out. */
async function pageLeft() {
  const watcher = await (await Mqtt.open(5)).subscribe("left", 1);
  const frame = document.createElement("iframe");
  const said = new Promise((resolve) => addEventListener("message", (event) => resolve(event.data), { once: true }));
  frame.src = "/?will";
  document.body.append(frame);
  equal(await soon(said, "the inner page"), "connected", "the inner page");
  frame.remove();
  equal(new TextDecoder().decode((await watcher.messages.take("the will")).payload), "gone", "the will");
  await watcher.close();
}

async function innerPage() {
  await Mqtt.open(5, { will: { topic: "left", payload: "gone", qos: 1, retain: false } });
  parent.postMessage("connected", "*");
}

/** How a WebSocket of this page ends, or that it opened. */
function attempt(url, protocols) {
  return soon(
    new Promise((resolve) => {
      const socket = new WebSocket(url, protocols);
      socket.onopen = () => resolve("open");
      socket.onclose = (event) => resolve(`closed ${event.code}`);
    }),
    "an answer",
  );
}

/** Pages of elsewhere do not reach through this machine; neither do those without an origin. */
async function foreignPage() {
  equal(await attempt(settings.mqtt, ["mqtt"]), "open", "a page of this machine");
  for (const [where, attributes] of [[`http://${settings.foreign}:${location.port}/?foreign`, {}], ["/?foreign", { sandbox: "allow-scripts" }]]) {
    const frame = document.createElement("iframe");
    for (const [name, value] of Object.entries(attributes)) frame.setAttribute(name, value);
    const said = new Mailbox();
    const hear = (event) => said.put(event.data);
    addEventListener("message", hear);
    frame.src = where;
    document.body.append(frame);
    equal(await said.take("the foreign page"), "ready", where);
    frame.contentWindow.postMessage(settings.mqtt, "*");
    equal(await said.take("its answer"), "closed 1006", where);
    removeEventListener("message", hear);
    frame.remove();
  }
}

/** MQTT over text frames, and a sub-protocol that nobody speaks. */
async function wrongUse() {
  equal(await attempt(settings.mqtt, ["soap"]), "closed 1006", "an unknown sub-protocol");
  const socket = new WebSocket(settings.mqtt, ["mqtt"]);
  const closed = new Promise((resolve) => (socket.onclose = (event) => resolve([event.code, event.wasClean])));
  await soon(new Promise((resolve) => (socket.onopen = resolve)), "the opening");
  socket.send("text");
  equal(await soon(closed, "the close"), [1003, true], "a text frame");
}

async function reconnectKill9() {
  const subscriber = await Mqtt.open(5, { reconnectPeriod: 200, clean: false, clientId: "page", properties: { sessionExpiryInterval: 300 } });
  await subscriber.subscribe("again", 1);
  const stomp = await Stomp.open({ reconnectDelay: 200 });
  equal(await (await post("/control", "kill9")).text(), "ok", "kill9");
  equal((await subscriber.connects.take("CONNACK again")).sessionPresent, true, "session present");
  await stomp.connects.take("CONNECTED again");
  await stomp.send("/topic/again", "after");
  equal(new TextDecoder().decode((await subscriber.messages.take("the message")).payload), "after", "payload");
  await subscriber.close();
  await stomp.close();
}

const SCENARIOS = {
  "mqtt311-to-stomp": mqttToStomp(4),
  "mqtt5-to-stomp": mqttToStomp(5),
  "stomp-to-mqtt311": stompToMqtt(4),
  "stomp-to-mqtt5": stompToMqtt(5),
  "retained-qos2": retainedAndQos2,
  large,
  "page-left": pageLeft,
  "foreign-page": foreignPage,
  "wrong-use": wrongUse,
  "reconnect-kill9": reconnectKill9,
};

async function main() {
  if (location.search === "?foreign") {
    // Of another origin, it cannot ask for our settings: it is told where to connect.
    addEventListener("message", async (event) => parent.postMessage(await attempt(event.data, ["mqtt"]), "*"));
    return parent.postMessage("ready", "*");
  }
  settings = await (await fetch("/settings")).json();
  if (location.search === "?will") return innerPage();
  for (const [name, scenario] of Object.entries(SCENARIOS)) {
    try {
      await scenario();
      await post("/report", `ok - ${name}`);
    } catch (error) {
      await post("/report", `not ok - ${name}: ${error.message.split("\n")[0]}`);
      await post("/log", `${name}: ${error.stack}`);
    }
  }
  await post("/done", "");
}

addEventListener("DOMContentLoaded", main);
