// A headless Chromium against a broker: the page speaks MQTT.js and @stomp/stompjs over WebSocket, and reports here.
//
// Serves the page at 127.0.0.1, a page of this machine, and at a foreign name that the browser is told to find here too.
"use strict";

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const http = require("node:http");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");
const readline = require("node:readline");

const { WEB_MQTT_URL, WEB_STOMP_URL, STOMP_USER, STOMP_PASSWORD, STOMP_CONTROL, CHROMIUM = "chromium" } = process.env;
/** The first start of a browser on a busy machine takes its time. */
const LIMIT = 100_000;
const FOREIGN = "elsewhere.example";

/** A bundle for browsers, which `require` would not find by this name. */
const library = (file) => fs.readFileSync(path.join(process.env.NODE_PATH, file));
const FILES = {
  "/": ["text/html; charset=utf-8", () => fs.readFileSync(path.join(__dirname, "page.html"))],
  "/page.js": ["text/javascript; charset=utf-8", () => fs.readFileSync(path.join(__dirname, "page.js"))],
  "/mqtt.js": ["text/javascript; charset=utf-8", () => library("mqtt/dist/mqtt.min.js")],
  "/stomp.js": ["text/javascript; charset=utf-8", () => library("@stomp/stompjs/bundles/stomp.umd.min.js")],
  "/settings": ["application/json", () => JSON.stringify({ mqtt: WEB_MQTT_URL, stomp: WEB_STOMP_URL, user: STOMP_USER, password: STOMP_PASSWORD, foreign: FOREIGN })],
};

async function control(command) {
  const [host, port] = STOMP_CONTROL.split(":");
  const socket = net.connect(Number(port), host);
  socket.write(`${command}\n`);
  for await (const line of readline.createInterface({ input: socket })) return line;
  return "no answer";
}

function read(request) {
  return new Promise((resolve) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => resolve(Buffer.concat(parts).toString()));
  });
}

let failed = 0;
/** Lines of TAP, as the page says them. */
function report(line) {
  if (line.startsWith("not ok")) failed += 1;
  console.log(line);
}

function serve(done) {
  const handle = async (request, response) => {
    const { pathname } = new URL(request.url, "http://page");
    // The foreign page reports to the page of this machine.
    response.setHeader("Access-Control-Allow-Origin", "*");
    const answer = (status, type, body) => response.writeHead(status, { "Content-Type": type }).end(body);
    if (request.method === "POST") {
      const body = await read(request);
      if (pathname === "/report") report(body);
      else if (pathname === "/log") console.error(body);
      else if (pathname === "/control") return answer(200, "text/plain", await control(body));
      else if (pathname === "/done") done("done");
      return answer(204, "text/plain");
    }
    const file = FILES[pathname];
    return file ? answer(200, file[0], file[1]()) : answer(404, "text/plain", "");
  };
  const server = http.createServer((request, response) => handle(request, response).catch((error) => done(`${request.url}: ${error.stack}`)));
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

async function main() {
  let finished;
  const end = new Promise((resolve) => (finished = resolve));
  const server = await serve(finished);
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "carrick-browser-"));
  const args = ["--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", `--user-data-dir=${profile}`];
  // As root there is no sandbox to be had.
  if (process.getuid() === 0) args.push("--no-sandbox");
  args.push(`--host-resolver-rules=MAP ${FOREIGN} 127.0.0.1`, `http://127.0.0.1:${server.address().port}/`);
  const browser = spawn(CHROMIUM, args, { stdio: ["ignore", "ignore", "ignore"], detached: true });
  browser.on("error", (error) => finished(`the browser did not start: ${error.message}`));
  browser.on("exit", (code) => finished(`the browser ended with ${code}`));
  setTimeout(() => finished(`the page was not done within ${LIMIT} ms`), LIMIT);
  const how = await end;
  if (how !== "done") {
    failed += 1;
    console.error(how);
  }
  try {
    process.kill(-browser.pid, "SIGKILL");
  } catch {
    // It has gone by itself.
  }
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  process.exit(failed === 0 ? 0 : 1);
}

main();
