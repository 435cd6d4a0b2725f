// @stomp/stompjs over WebSocket against a broker: a line of TAP for each scenario.
"use strict";

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const fs = require("node:fs");
const net = require("node:net");
const readline = require("node:readline");
const { Client, StompSocketState, Versions } = require("@stomp/stompjs");
const WebSocket = require("ws");

const { WEB_STOMP_URL: url, STOMP_USER: login, STOMP_PASSWORD: passcode, STOMP_CONTROL, WEB_TLS_PORT, TLS_DIR } = process.env;
const WAIT = 10_000;

/** Values that arrive by callback, to be awaited in order. */
class Mailbox {
  #values = [];
  #takers = [];

  put(value) {
    const taker = this.#takers.shift();
    if (taker) taker(value);
    else this.#values.push(value);
  }

  take(what, wait = WAIT) {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift());
    return new Promise((resolve, reject) => {
      const taker = (value) => {
        clearTimeout(timer);
        resolve(value);
      };
      const timer = setTimeout(() => {
        this.#takers.splice(this.#takers.indexOf(taker), 1);
        reject(new Error(`${what} did not come within ${wait} ms`));
      }, wait);
      this.#takers.push(taker);
    });
  }

  async nothing(what, wait = 300) {
    const late = await this.take(what, wait).catch(() => undefined);
    assert.equal(late, undefined, `${what} came`);
  }
}

/** One connection; what it receives waits in mailboxes. */
class Connection {
  static async open(more = {}) {
    const connection = new Connection(more);
    connection.client.activate();
    connection.connected = await connection.connects.take("CONNECTED");
    return connection;
  }

  constructor({ headers = {}, ...more } = {}) {
    this.connects = new Mailbox();
    this.errors = new Mailbox();
    this.closes = new Mailbox();
    this.receipts = 0;
    this.client = new Client({
      webSocketFactory: () => {
        this.socket = new WebSocket(more.url ?? url, more.protocols ?? ["v12.stomp", "v11.stomp", "v10.stomp"], more.tls);
        this.socket.on("message", (_data, isBinary) => (this.binary = isBinary));
        return this.socket;
      },
      connectHeaders: { login, passcode, ...headers },
      reconnectDelay: 0,
      heartbeatIncoming: 0,
      heartbeatOutgoing: 0,
      onConnect: (frame) => this.connects.put(frame),
      onStompError: (frame) => this.errors.put(frame),
      onWebSocketClose: (event) => this.closes.put(event),
      ...more,
    });
  }

  subscribe(destination, headers = {}) {
    const messages = new Mailbox();
    messages.subscription = this.client.subscribe(destination, (message) => messages.put(message), headers);
    return messages;
  }

  send(destination, body, headers = {}, more = {}) {
    this.client.publish({ destination, body, headers, ...more });
  }

  /** The same, and its RECEIPT. */
  async confirmed(call) {
    const receipt = `r${(this.receipts += 1)}`;
    const came = new Mailbox();
    this.client.watchForReceipt(receipt, () => came.put(true));
    call({ receipt });
    await came.take(`the receipt ${receipt}`);
  }

  sendConfirmed(destination, body, headers = {}) {
    return this.confirmed((receipt) => this.send(destination, body, { persistent: "true", ...headers, ...receipt }));
  }

  /** Closes the socket as a crash does. */
  async cut() {
    this.socket.terminate();
    await this.closes.take("the end");
  }

  close() {
    return this.client.deactivate();
  }
}

async function control(command) {
  const [host, port] = STOMP_CONTROL.split(":");
  const socket = net.connect(Number(port), host);
  socket.write(`${command}\n`);
  for await (const line of readline.createInterface({ input: socket })) {
    assert.equal(line, "ok", command);
    return;
  }
  throw new Error(`${command}: no answer`);
}

async function take(messages, count) {
  const got = [];
  while (got.length < count) got.push(await messages.take("a message"));
  return got;
}
const bodies = (messages) => messages.map((message) => message.body);
const numbers = (count) => Array.from({ length: count }, (_, i) => `${i}`);

async function versions(base) {
  for (const version of ["1.0", "1.1", "1.2"]) {
    const connection = await Connection.open({ stompVersions: new Versions([version]), protocols: [`v${version.replace(".", "")}.stomp`] });
    assert.equal(connection.client.connectedVersion, version);
    assert.equal(connection.socket.protocol, `v${version.replace(".", "")}.stomp`);
    const messages = connection.subscribe(`/queue/${base}-${version}`);
    connection.send(`/queue/${base}-${version}`, "grüße 😀");
    assert.deepEqual(bodies(await take(messages, 1)), ["grüße 😀"]);
    await connection.close();
  }
}

async function receipts(base) {
  const connection = await Connection.open();
  for (const i of numbers(100)) await connection.sendConfirmed(`/queue/${base}`, i);
  const messages = connection.subscribe(`/queue/${base}`);
  assert.deepEqual(bodies(await take(messages, 100)), numbers(100));
  await connection.close();
}

async function burst(base) {
  const connection = await Connection.open();
  const messages = connection.subscribe(`/queue/${base}`);
  for (const i of numbers(5000)) connection.send(`/queue/${base}`, i);
  assert.deepEqual(bodies(await take(messages, 5000)), numbers(5000));
  await connection.close();
}

async function acks(base) {
  const connection = await Connection.open();
  for (const i of numbers(3)) await connection.sendConfirmed(`/queue/${base}`, i);
  const messages = connection.subscribe(`/queue/${base}`, { ack: "client-individual" });
  const [, second] = await take(messages, 3);
  await connection.confirmed((receipt) => second.ack(receipt));
  await connection.cut();
  const other = await Connection.open();
  const again = other.subscribe(`/queue/${base}`, { ack: "client-individual" });
  const [first, third] = await take(again, 2);
  assert.deepEqual(bodies([first, third]), ["0", "2"]);
  first.ack();
  third.nack({ requeue: "true" });
  const [last] = await take(again, 1);
  assert.equal(last.body, "2");
  last.ack();
  await again.nothing("another message");
  await other.close();
}

async function transaction(base) {
  const connection = await Connection.open();
  const messages = connection.subscribe(`/queue/${base}`);
  const aborted = connection.client.begin();
  connection.send(`/queue/${base}`, "never", { transaction: aborted.id });
  aborted.abort();
  const committed = connection.client.begin();
  connection.send(`/queue/${base}`, "once", { transaction: committed.id });
  await messages.nothing("an uncommitted message");
  committed.commit();
  assert.deepEqual(bodies(await take(messages, 1)), ["once"]);
  await connection.close();
}

async function binary(base) {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  const connection = await Connection.open();
  const messages = connection.subscribe(`/queue/${base}`);
  connection.send(`/queue/${base}`, undefined, {}, { binaryBody: bytes });
  const [message] = await take(messages, 1);
  assert.ok(Buffer.from(message.binaryBody).equals(bytes), "the bytes");
  assert.equal(connection.binary, true, "what is not UTF-8 does not come in a text frame");
  await connection.close();
}

async function frames(base) {
  // Text until the client speaks in binary frames.
  for (const forceBinaryWSFrames of [false, true]) {
    const connection = await Connection.open({ forceBinaryWSFrames });
    const messages = connection.subscribe(`/queue/${base}`);
    connection.send(`/queue/${base}`, "hello");
    await take(messages, 1);
    assert.equal(connection.binary, forceBinaryWSFrames);
    await connection.close();
  }
}

async function large(base) {
  // A STOMP frame in many WebSocket messages, and one that is a megabyte long.
  for (const more of [{ splitLargeFrames: true, maxWebSocketChunkSize: 1000 }, {}]) {
    const connection = await Connection.open(more);
    const messages = connection.subscribe(`/queue/${base}`);
    const body = crypto.randomBytes(500_000).toString("hex");
    connection.send(`/queue/${base}`, body);
    const [message] = await take(messages, 1);
    assert.ok(message.body === body, `${message.body.length} characters`);
    await connection.close();
  }
}

async function heartBeat() {
  const connection = await Connection.open({ heartbeatIncoming: 1000, heartbeatOutgoing: 1000 });
  await connection.closes.nothing("the end", 3500);
  assert.equal(connection.client.connected, true);
  await connection.close();
}

async function errorCloses() {
  const connection = await Connection.open();
  connection.client.subscribe("/nowhere/at/all", () => {});
  const error = await connection.errors.take("ERROR");
  assert.ok(error.headers.message, "an ERROR says what is wrong");
  const close = await connection.closes.take("the end");
  assert.equal(close.code, 1000, "the close code");
  await connection.close();
}

async function wrongPassword() {
  const connection = new Connection({ headers: { passcode: "wrong" } });
  connection.client.activate();
  await connection.errors.take("ERROR");
  await connection.closes.take("the end");
  assert.equal(connection.client.connected, false);
  await connection.close();
}

async function politeClose(base) {
  const connection = await Connection.open();
  connection.send(`/queue/${base}`, "before");
  await connection.close();
  assert.equal((await connection.closes.take("the end")).wasClean, true);
  assert.equal(connection.socket.readyState, StompSocketState.CLOSED);
  const other = await Connection.open();
  assert.deepEqual(bodies(await take(other.subscribe(`/queue/${base}`), 1)), ["before"]);
  await other.close();
}

async function reconnectKill9(base) {
  const connection = await Connection.open({ reconnectDelay: 200 });
  for (const i of numbers(50)) await connection.sendConfirmed(`/queue/${base}`, i);
  await control("kill9");
  await connection.connects.take("CONNECTED again", 20_000);
  assert.deepEqual(bodies(await take(connection.subscribe(`/queue/${base}`), 50)), numbers(50));
  await connection.close();
}

/** With the broker's certificate verified; nobody is let in who trusts somebody else. */
async function tls(base) {
  const wss = `wss://127.0.0.1:${WEB_TLS_PORT}/stomp`;
  const connection = await Connection.open({ url: wss, tls: { ca: fs.readFileSync(`${TLS_DIR}/ca.pem`) } });
  const messages = connection.subscribe(`/queue/${base}`);
  const body = crypto.randomBytes(150_000).toString("hex");
  connection.send(`/queue/${base}`, body);
  assert.ok((await messages.take("the message")).body === body);
  await connection.close();
  const socket = new WebSocket(wss, ["v12.stomp"]);
  const error = await new Promise((resolve) => socket.on("error", resolve).on("open", () => resolve(undefined)));
  assert.match(String(error), /certificate/);
}

const SCENARIOS = {
  versions,
  receipts,
  burst,
  acks,
  transaction,
  binary,
  frames,
  large,
  "heart-beat": heartBeat,
  "error-closes": errorCloses,
  "wrong-password": wrongPassword,
  "polite-close": politeClose,
  tls,
  "reconnect-kill9": reconnectKill9,
};

async function main() {
  let failed = 0;
  const only = process.argv.slice(2);
  for (const [name, scenario] of Object.entries(SCENARIOS)) {
    if (only.length > 0 && !only.includes(name)) continue;
    try {
      await scenario(`stompjs-${name}`);
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
