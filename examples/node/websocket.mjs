// A WebSocket client (RFC 6455) on Node's own http: the WebSocket of Node 20 cannot send headers.
import { createHash, randomBytes } from "node:crypto";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;
const MOST_BYTES = 16 * 1024 * 1024;

/** The handshake was refused by an HTTP response. `problem`: its problem document, if it has one. */
export class HandshakeRefused extends Error {
  constructor(status, problem) {
    super(`the handshake was answered ${status} ${problem?.code ?? ""}`);
    Object.assign(this, { status, problem: problem ?? {} });
  }
}

/** Open a socket. `on.message(text)` and `on.close(code, reason)` follow; code 1006: the connection broke. */
export function connect({ transport, url, path, host, headers, timeoutMs, on }) {
  const nonce = randomBytes(16).toString("base64");
  const upgrade = {
    Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": nonce,
  };
  const hostname = url.hostname.replace(/^\[|\]$/g, "");
  const options = { hostname, port: url.port, path, headers: { Host: host, ...headers, ...upgrade } };
  return new Promise((resolve, reject) => {
    const request = transport.request({ method: "GET", ...options });
    const timer = setTimeout(() => request.destroy(new Error("no handshake in time")), timeoutMs);
    request.on("error", reject);
    request.on("close", () => clearTimeout(timer));
    request.on("response", (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("end", () => {
        clearTimeout(timer);
        reject(new HandshakeRefused(response.statusCode, parsed(Buffer.concat(parts))));
      });
    });
    request.on("upgrade", (response, socket, first) => {
      clearTimeout(timer);
      if (response.headers["sec-websocket-accept"] !== createHash("sha1").update(nonce + GUID).digest("base64")) {
        socket.destroy();
        reject(new Error("the handshake was not for us"));
      } else resolve(new Socket(socket, first, on));
    });
    request.end();
  });
}

function parsed(bytes) {
  try {
    return JSON.parse(bytes);
  } catch {
    return undefined;
  }
}

class Socket {
  #socket;
  #on;
  #waiting = Buffer.alloc(0);
  #fragments = [];
  #closed = [1006, ""]; // the code and reason where there is no close frame

  constructor(socket, first, on) {
    [this.#socket, this.#on] = [socket, on];
    if (first.length) socket.unshift(first); // what came with the handshake stays before what comes after it
    socket.on("data", (bytes) => this.#take(bytes));
    socket.on("error", () => {});
    socket.on("close", () => this.#on.close(...this.#closed));
  }

  send(text) {
    this.#write(TEXT, Buffer.from(text));
  }

  close(code = 1000) {
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    this.#write(CLOSE, payload);
    this.#socket.end();
    setTimeout(() => this.#socket.destroy(), 1000).unref();
  }

  /** Return one frame; a client masks its frames. */
  #write(opcode, payload) {
    if (!this.#socket.writable) return;
    const size = payload.length;
    const length = size < 126 ? [0x80 | size] : [0xfe, size >> 8, size & 255];
    const head = Buffer.from([0x80 | opcode, ...length]);
    const mask = randomBytes(4);
    this.#socket.write(Buffer.concat([head, mask, payload.map((byte, at) => byte ^ mask[at & 3])]));
  }

  #take(bytes) {
    this.#waiting = this.#waiting.length ? Buffer.concat([this.#waiting, bytes]) : bytes;
    for (let frame; (frame = this.#frame()); ) this.#handle(frame);
  }

  /** Return the next complete frame, or undefined. */
  #frame() {
    const bytes = this.#waiting;
    if (bytes.length < 2) return undefined;
    let size = bytes[1] & 127, start = 2;
    if (size === 126) {
      if (bytes.length < 4) return undefined;
      [size, start] = [bytes.readUInt16BE(2), 4];
    } else if (size === 127) {
      if (bytes.length < 10) return undefined;
      [size, start] = [Number(bytes.readBigUInt64BE(2)), 10];
    }
    if (size > MOST_BYTES || bytes[1] & 128 || bytes[0] & 0x70) {
      this.#socket.destroy(); // too large, masked by a server, or compressed, which was not offered
      return undefined;
    }
    if (bytes.length < start + size) return undefined;
    this.#waiting = bytes.subarray(start + size);
    return { isLast: Boolean(bytes[0] & 128), opcode: bytes[0] & 15, payload: bytes.subarray(start, start + size) };
  }

  #handle({ isLast, opcode, payload }) {
    if (opcode === PING) this.#write(PONG, payload);
    else if (opcode === CLOSE) {
      this.#closed = payload.length >= 2 ? [payload.readUInt16BE(0), payload.subarray(2).toString("utf8")] : [1005, ""];
      this.#write(CLOSE, payload.subarray(0, 2));
      this.#socket.end();
    } else if (opcode !== PONG && opcode !== BINARY) {
      this.#fragments.push(payload);
      if (!isLast) return;
      const text = Buffer.concat(this.#fragments).toString("utf8");
      this.#fragments = [];
      this.#on.message(text);
    }
  }
}
