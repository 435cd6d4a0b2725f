// amqplib, the promises of it, against a broker. Prints a TAP line per scenario.
"use strict";

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const net = require("node:net");
const readline = require("node:readline");
const { setTimeout: sleep } = require("node:timers/promises");
const amqp = require("amqplib");

const { AMQP_HOST: hostname = "127.0.0.1", AMQP_PORT: port, AMQP_USER: username, AMQP_PASSWORD: password, AMQP_CONTROL } = process.env;
const WAIT = 20_000;

/** A promise with a bound, so that an answer that never comes has its scenario fail. */
function within(promise, what, limit = WAIT) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come within ${limit} ms`)), limit);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const open = new Set();

async function connect(options = {}) {
  const connection = await within(amqp.connect({ hostname, port: Number(port), username, password, ...options }), "the connection");
  // Without a listener an error would end the process.
  connection.on("error", () => {});
  open.add(connection);
  connection.once("close", () => open.delete(connection));
  return connection;
}

async function confirming(connection) {
  const channel = await connection.createConfirmChannel();
  channel.on("error", () => {});
  return channel;
}

async function channelOf(connection) {
  const channel = await connection.createChannel();
  channel.on("error", () => {});
  return channel;
}

const name = (what) => `amqplib.${what}.${crypto.randomBytes(4).toString("hex")}`;
const text = (message) => message.content.toString();

/** A consumer whose deliveries are awaited in order. */
class Consumer {
  #waiting = [];
  #takers = [];

  static async start(channel, queue, options) {
    const consumer = new Consumer();
    const { consumerTag } = await within(channel.consume(queue, (message) => consumer.#put(message), options), "consume-ok");
    consumer.tag = consumerTag;
    return consumer;
  }

  #put(message) {
    const taker = this.#takers.shift();
    if (taker) taker(message);
    else this.#waiting.push(message);
  }

  /** The next delivery, or null once the broker has cancelled. */
  next() {
    if (this.#waiting.length > 0) return Promise.resolve(this.#waiting.shift());
    return within(new Promise((resolve) => this.#takers.push(resolve)), "a delivery");
  }

  get waiting() {
    return this.#waiting.length;
  }
}

async function code(promise, expected) {
  await assert.rejects(within(promise, "the refusal"), (error) => {
    assert.equal(error.code, expected, error.message);
    return true;
  });
}

async function confirms() {
  const connection = await connect();
  const channel = await confirming(connection);
  const { queue } = await channel.assertQueue(name("confirms"), { durable: true });
  let confirmed = 0;
  for (let n = 0; n < 100; n++) {
    channel.sendToQueue(queue, Buffer.from(String(n)), { persistent: true }, (error) => (confirmed += error ? 0 : 1));
  }
  await within(channel.waitForConfirms(), "the confirms");
  assert.equal(confirmed, 100);
  assert.equal((await channel.checkQueue(queue)).messageCount, 100);
  assert.equal((await channel.deleteQueue(queue)).messageCount, 100);
  await connection.close();
}

async function consumeAck() {
  const connection = await connect();
  const channel = await channelOf(connection);
  const { queue } = await channel.assertQueue(name("consume"), { durable: true });
  for (let n = 0; n < 200; n++) channel.sendToQueue(queue, Buffer.from(String(n)));
  await channel.prefetch(10);
  const consumer = await Consumer.start(channel, queue);
  for (let n = 0; n < 200; n++) {
    const message = await consumer.next();
    assert.equal(text(message), String(n));
    assert.ok(consumer.waiting < 10, "more than the prefetch came");
    channel.ack(message);
  }
  assert.equal((await channel.checkQueue(queue)).messageCount, 0);
  await channel.cancel(consumer.tag);
  await channel.deleteQueue(queue);
  await connection.close();
}

async function redelivery() {
  const queue = name("redelivery");
  const first = await connect();
  const firstChannel = await channelOf(first);
  await firstChannel.assertQueue(queue);
  firstChannel.sendToQueue(queue, Buffer.from("again"));
  const got = await firstChannel.get(queue);
  assert.equal(got.fields.redelivered, false);
  // The connection is lost with the delivery in hand.
  first.connection.stream.destroy();
  const second = await connect();
  const channel = await channelOf(second);
  const consumer = await Consumer.start(channel, queue);
  let message = await consumer.next();
  assert.deepEqual([text(message), message.fields.redelivered], ["again", true]);
  await channel.cancel(consumer.tag);
  channel.nack(message, false, true);
  message = await channel.get(queue);
  assert.equal(message.fields.redelivered, true);
  channel.reject(message, false);
  assert.equal(await channel.get(queue), false);
  await channel.deleteQueue(queue);
  await second.close();
}

async function mandatory() {
  const connection = await connect();
  const channel = await confirming(connection);
  const returned = [];
  channel.on("return", (message) => returned.push(message));
  const nobody = name("nobody");
  channel.publish("", nobody, Buffer.from("back"), { mandatory: true });
  await within(channel.waitForConfirms(), "the confirm");
  // The return comes before the confirm.
  assert.deepEqual(returned.map((m) => [m.fields.replyCode, m.fields.replyText, m.fields.routingKey, text(m)]), [[312, "NO_ROUTE", nobody, "back"]]);
  channel.publish("", nobody, Buffer.from("gone"));
  await within(channel.waitForConfirms(), "the confirm");
  assert.equal(returned.length, 1);
  await connection.close();
}

async function deadLetter() {
  const connection = await connect();
  const channel = await channelOf(connection);
  const [queue, dead, exchange] = [name("source"), name("dead"), name("dlx")];
  await channel.assertExchange(exchange, "fanout", { durable: false });
  await channel.assertQueue(dead);
  await channel.bindQueue(dead, exchange, "");
  await channel.assertQueue(queue, { deadLetterExchange: exchange, messageTtl: 1 });
  channel.sendToQueue(queue, Buffer.from("late"), { headers: { mine: "kept" } });
  const consumer = await Consumer.start(channel, dead, { noAck: true });
  const message = await consumer.next();
  const { headers } = message.properties;
  assert.equal(text(message), "late");
  assert.deepEqual([headers.mine, headers["x-first-death-reason"], headers["x-first-death-queue"]], ["kept", "expired", queue]);
  const [death] = headers["x-death"];
  assert.deepEqual([death.reason, death.queue, death.exchange, death.count, death["routing-keys"]], ["expired", queue, "", 1, [queue]]);
  await channel.cancel(consumer.tag);
  await channel.deleteQueue(queue);
  await channel.deleteQueue(dead);
  await channel.deleteExchange(exchange);
  await connection.close();
}

async function ttl() {
  const connection = await connect();
  const channel = await channelOf(connection);
  const { queue } = await channel.assertQueue(name("ttl"));
  channel.sendToQueue(queue, Buffer.from("short"), { expiration: 100 });
  channel.sendToQueue(queue, Buffer.from("long"), { expiration: 60000 });
  await sleep(2200);
  const message = await channel.get(queue, { noAck: true });
  assert.deepEqual([text(message), message.properties.expiration], ["long", "60000"]);
  await channel.deleteQueue(queue);
  await connection.close();
}

async function serverNamed() {
  const connection = await connect();
  const channel = await channelOf(connection);
  const { queue } = await channel.assertQueue("", { exclusive: true });
  assert.match(queue, /^amq\.gen-/);
  await channel.bindQueue(queue, "amq.topic", "a.*");
  const consumer = await Consumer.start(channel, queue, { noAck: true });
  channel.publish("amq.topic", "a.b.c", Buffer.from("not"));
  channel.publish("amq.topic", "a.b", Buffer.from("routed"));
  const message = await consumer.next();
  assert.deepEqual([text(message), message.fields.exchange, message.fields.routingKey], ["routed", "amq.topic", "a.b"]);
  const other = await connect();
  await code((await channelOf(other)).checkQueue(queue), 405);
  await connection.close();
  await code((await channelOf(other)).checkQueue(queue), 404);
  await other.close();
}

async function rpc() {
  const [server, client] = [await connect(), await connect()];
  const serving = await channelOf(server);
  const { queue } = await serving.assertQueue(name("rpc"), { exclusive: true });
  const questions = await Consumer.start(serving, queue, { noAck: true });
  const asking = await channelOf(client);
  const answers = await Consumer.start(asking, "amq.rabbitmq.reply-to", { noAck: true });
  asking.sendToQueue(queue, Buffer.from("question"), { replyTo: "amq.rabbitmq.reply-to", correlationId: "7" });
  const question = await questions.next();
  const { replyTo, correlationId } = question.properties;
  assert.equal(text(question), "question");
  assert.match(replyTo, /^amq\.rabbitmq\.reply-to\./);
  serving.sendToQueue(replyTo, Buffer.from("answer"), { correlationId });
  const answer = await answers.next();
  assert.deepEqual([text(answer), answer.properties.correlationId], ["answer", "7"]);
  await client.close();
  await server.close();
}

async function large() {
  const connection = await connect();
  const channel = await confirming(connection);
  const { queue } = await channel.assertQueue(name("large"));
  for (const size of [0, 131_064, 131_065, 1 << 20, 5_000_000]) {
    const body = crypto.randomBytes(size);
    channel.sendToQueue(queue, body);
    await within(channel.waitForConfirms(), "the confirm");
    const message = await within(channel.get(queue, { noAck: true }), "the message");
    assert.ok(message.content.equals(body), `${size} bytes came back as ${message.content.length}`);
  }
  await channel.deleteQueue(queue);
  await connection.close();
}

/** Each kind of field that this library writes, and each property. */
async function properties() {
  const connection = await connect();
  const channel = await channelOf(connection);
  const { queue } = await channel.assertQueue("", { exclusive: true });
  const headers = {
    text: "grüße",
    bytes: Buffer.from([0, 255, 1]),
    yes: true,
    no: false,
    small: 7,
    short: -300,
    int: 1 << 30,
    long: 2 ** 40,
    double: 0.5,
    nothing: null,
    list: [1, "two", [3], { four: 4 }],
    table: { inner: { deep: "value" } },
    time: { "!": "timestamp", value: 1_700_000_000 },
    float: { "!": "float", value: 1.5 },
    decimal: { "!": "decimal", value: { digits: 12345, places: 2 } },
  };
  const sent = {
    headers,
    contentType: "text/plain",
    contentEncoding: "identity",
    deliveryMode: 2,
    priority: 3,
    correlationId: "correlation",
    replyTo: "answers",
    expiration: "60000",
    messageId: "id",
    timestamp: 1_700_000_000,
    type: "kind",
    userId: username,
    appId: "app",
  };
  channel.sendToQueue(queue, Buffer.from("body"), sent);
  const { properties: got } = await channel.get(queue, { noAck: true });
  for (const key of Object.keys(sent)) if (key !== "headers") assert.equal(got[key], sent[key], key);
  assert.deepEqual(Object.keys(got.headers), Object.keys(headers));
  // A float comes back as a plain number.
  assert.deepEqual({ ...got.headers }, { ...headers, float: 1.5 });
  await connection.close();
}

async function exchangeBind() {
  const connection = await connect();
  const channel = await channelOf(connection);
  const [source, middle, spare] = [name("source"), name("middle"), name("spare")];
  await channel.assertExchange(spare, "fanout", { autoDelete: true });
  await channel.assertExchange(middle, "headers", { autoDelete: true, alternateExchange: spare });
  await channel.assertExchange(source, "topic", { autoDelete: true });
  await channel.bindExchange(middle, source, "#.end");
  const { queue } = await channel.assertQueue("", { exclusive: true });
  const { queue: rest } = await channel.assertQueue("", { exclusive: true });
  await channel.bindQueue(queue, middle, "", { "x-match": "all", colour: "red", size: 1 });
  await channel.bindQueue(rest, spare, "");
  channel.publish(source, "a.b.end", Buffer.from("both"), { headers: { colour: "red", size: 1, more: "x" } });
  channel.publish(source, "end", Buffer.from("one"), { headers: { colour: "red" } });
  channel.publish(source, "a.b", Buffer.from("none"), { headers: { colour: "red", size: 1 } });
  const counts = [(await channel.checkQueue(queue)).messageCount, (await channel.checkQueue(rest)).messageCount];
  assert.deepEqual(counts, [1, 1]);
  assert.equal(text(await channel.get(queue, { noAck: true })), "both");
  assert.equal(text(await channel.get(rest, { noAck: true })), "one");
  await channel.unbindExchange(middle, source, "#.end");
  // Its last binding has gone, and so has the exchange.
  await code(channel.checkExchange(source), 404);
  await connection.close();
}

async function recover() {
  const connection = await connect();
  const channel = await channelOf(connection);
  const { queue } = await channel.assertQueue("", { exclusive: true });
  for (const body of ["1", "2", "3"]) channel.sendToQueue(queue, Buffer.from(body));
  const consumer = await Consumer.start(channel, queue);
  for (let n = 0; n < 3; n++) assert.equal((await consumer.next()).fields.redelivered, false);
  await within(channel.recover(), "recover-ok");
  const again = [await consumer.next(), await consumer.next(), await consumer.next()];
  assert.deepEqual(again.map((m) => [text(m), m.fields.redelivered]), [["1", true], ["2", true], ["3", true]]);
  channel.ackAll();
  assert.equal((await channel.checkQueue(queue)).messageCount, 0);
  await connection.close();
}

async function channelError() {
  const connection = await connect();
  const [one, two] = [await channelOf(connection), await channelOf(connection)];
  const queue = name("nope");
  await assert.rejects(within(one.checkQueue(queue), "the refusal"), new RegExp(`404 .*NOT_FOUND - no queue '${queue}' in vhost '/'`));
  // The connection goes on, and so does the number of the channel.
  await two.assertQueue("", { exclusive: true });
  await (await channelOf(connection)).assertQueue("", { exclusive: true });
  const { queue: mine } = await two.assertQueue(name("different"), { durable: true });
  await code(two.assertQueue(mine, { durable: false }), 406);
  await (await channelOf(connection)).deleteQueue(mine);
  await connection.close();
}

async function cancelNotify() {
  const [connection, other] = [await connect(), await connect()];
  const channel = await channelOf(connection);
  const { queue } = await channel.assertQueue(name("cancelled"));
  const consumer = await Consumer.start(channel, queue);
  await (await channelOf(other)).deleteQueue(queue);
  assert.equal(await consumer.next(), null);
  await connection.close();
  await other.close();
}

async function wrongPassword() {
  await assert.rejects(connect({ password: "wrong" }), /403 \(ACCESS.REFUSED\)/);
}

async function cleanClose() {
  const connection = await connect();
  const channel = await channelOf(connection);
  const closed = new Promise((resolve) => connection.once("close", resolve));
  await within(channel.close(), "close-ok of the channel");
  await (await channelOf(connection)).assertQueue("", { exclusive: true });
  await within(connection.close(), "close-ok of the connection");
  assert.equal(await within(closed, "the end"), undefined);
}

function dial() {
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), hostname, () => resolve(socket)).once("error", reject);
  });
}

async function dirtyClose() {
  const connection = await connect();
  const channel = await channelOf(connection);
  const { queue } = await channel.assertQueue(name("dirty"), { autoDelete: true });
  const cut = await dial();
  cut.write(Buffer.from("AMQP\0\0\x09\x01\x01\0\0", "latin1"), () => cut.destroy());
  const wrong = await dial();
  wrong.write("GET / HTTP/1.1\r\n");
  const answer = await within(new Promise((resolve) => wrong.once("data", resolve)), "the header");
  assert.equal(answer.toString("latin1"), "AMQP\0\0\x09\x01");
  wrong.destroy();
  await channel.deleteQueue(queue);
  await connection.close();
}

async function restartKill9() {
  if (!AMQP_CONTROL) return "no control";
  const first = await connect();
  const publishing = await confirming(first);
  const { queue } = await publishing.assertQueue(name("restart"), { durable: true });
  for (let n = 0; n < 50; n++) publishing.sendToQueue(queue, Buffer.from(String(n)), { persistent: true });
  await within(publishing.waitForConfirms(), "the confirms");
  const [host, controlPort] = AMQP_CONTROL.split(":");
  const socket = net.connect(Number(controlPort), host);
  socket.write("kill9\n");
  const lines = readline.createInterface({ input: socket });
  assert.equal(await new Promise((resolve) => lines.once("line", resolve).once("close", () => resolve("no answer"))), "ok");
  socket.destroy();
  const second = await connect();
  const channel = await channelOf(second);
  const consumer = await Consumer.start(channel, queue, { noAck: true });
  for (let n = 0; n < 50; n++) assert.equal(text(await consumer.next()), String(n));
  await channel.cancel(consumer.tag);
  assert.equal((await channel.deleteQueue(queue)).messageCount, 0);
  await second.close();
}

const SCENARIOS = {
  confirms,
  "consume-ack": consumeAck,
  redelivery,
  mandatory,
  "dead-letter": deadLetter,
  ttl,
  "server-named": serverNamed,
  rpc,
  large,
  properties,
  "exchange-bind": exchangeBind,
  recover,
  "channel-error": channelError,
  "cancel-notify": cancelNotify,
  "wrong-password": wrongPassword,
  "clean-close": cleanClose,
  "dirty-close": dirtyClose,
  "restart-kill9": restartKill9,
};

async function main() {
  let failed = 0;
  const chosen = process.argv.slice(2);
  for (const [scenario, run] of Object.entries(SCENARIOS)) {
    if (chosen.length > 0 && !chosen.includes(scenario)) continue;
    try {
      const skipped = await within(run(), "the end of it", 3 * WAIT);
      console.log(`ok - ${scenario}${skipped ? ` # SKIP ${skipped}` : ""}`);
    } catch (error) {
      failed += 1;
      console.log(`not ok - ${scenario}: ${String(error.message ?? error).replaceAll("\n", " ")}`);
      console.log(error.stack);
    }
    for (const connection of open) connection.connection.stream.destroy();
    open.clear();
  }
  process.exit(failed > 0 ? 1 : 0);
}

main();
