// The stream as an async generator of events. It connects anew by itself, and keeps the books of the numbers.
// See docs/stream.md.
import { Refused, checkSnapshot } from "./desk.mjs";
import { PacketRefused, verifyPacket } from "./signing.mjs";
import { HandshakeRefused, connect } from "./websocket.mjs";

const PATH = "/ws/v2/active";
const SILENCE_MS = 15_000;
const POLICY = 1008;

/**
 * Yields, until `signal` aborts:
 *   {event: "connected"}                          a socket is open, its snapshot follows
 *   {event: "snapshot", snapshot}                 replaces everything that was known
 *   {event: "delta", message, packet, refused}    `packet`: verified, or null; `refused`: why it was not taken
 *   {event: "gap", strategy}                      something did not come; a snapshot was asked for
 *   {event: "lost", why, againMs}                 the socket is gone; another is tried
 * Throws Refused where the key itself is refused.
 * `subscriptions`: {sub_id: {generation: packet secret}}.
 */
export async function* follow(desk, { subscriptions = {}, signal } = {}) {
  for (let failures = 0; !signal?.aborted; ) {
    const events = new Events();
    const stop = () => events.close(1000, "stopped");
    signal?.addEventListener("abort", stop, { once: true });
    let openedMs = 0, why;
    try {
      const socket = await desk.inTurn(() => connect({
        transport: desk.transport, url: desk.url, host: desk.host, path: PATH, headers: desk.headers("GET", PATH),
        timeoutMs: desk.timeoutMs, on: events,
      }));
      openedMs = performance.now();
      yield { event: "connected" };
      yield* session(socket, events, subscriptions);
      why = `closed: ${events.code} ${events.reason}`;
      if (events.code === POLICY) {
        throw new Refused(401, { code: "key_revoked", retry: "rotate", detail: events.reason }, false);
      }
    } catch (fault) {
      if (fault instanceof Refused) throw fault;
      if (fault instanceof HandshakeRefused) {
        if (["never", "rotate"].includes(fault.problem.retry)) throw new Refused(fault.status, fault.problem, false);
        desk.heed(fault.problem);
      }
      why = fault.message;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
    if (signal?.aborted) return;
    if (openedMs && performance.now() - openedMs > 60_000) failures = 0;
    const againMs = Math.min(30_000, 500 * 2 ** failures++) * Math.random();
    yield { event: "lost", why, againMs };
    await pause(againMs, signal);
  }
}

/** One socket's events until it closes. */
async function* session(socket, events, subscriptions) {
  const numbers = new Numbers();
  try {
    for (;;) {
      const text = await events.next(SILENCE_MS);
      if (text === null) return;
      const message = JSON.parse(text);
      if (message.type === "snapshot") {
        checkSnapshot(message, text);
        numbers.begin(message.as_of);
        yield { event: "snapshot", snapshot: message };
        continue;
      }
      const gap = numbers.gapIn(message);
      if (gap) {
        socket.send('{"type":"resync"}');
        yield { event: "gap", strategy: gap };
      }
      if (message.type.startsWith("trade.") && numbers.isNext(message)) {
        yield { event: "delta", message, ...verified(message, subscriptions) };
      }
    }
  } finally {
    socket.close();
  }
}

/** The message is not signed, its packet is: a number that differs is somebody else's, or an old packet's. */
function verified({ packet, seq }, subscriptions) {
  if (packet === undefined) return { packet: null, refused: "" };
  try {
    if (packet.seq !== seq) throw new PacketRefused(`the packet is numbered ${packet.seq}`);
    return { packet: verifyPacket(packet, subscriptions[packet.sub_id] ?? {}, packet.sub_id), refused: "" };
  } catch (fault) {
    if (!(fault instanceof PacketRefused)) throw fault;
    return { packet: null, refused: fault.message };
  }
}

/** The number that each strategy is known up to. Numbers need 64 bits. */
class Numbers {
  #known = new Map();
  #ahead = new Map(); // by heartbeat
  #gaps = new Set();

  begin(asOf) {
    this.#known = new Map(Object.entries(asOf).map(([strategy, seq]) => [strategy, BigInt(seq)]));
    this.#ahead.clear();
    this.#gaps.clear();
  }

  /** The strategy of which something is missing, told once until the next snapshot. */
  gapIn(message) {
    const isHeartbeat = message.type === "heartbeat";
    const missing = isHeartbeat ? this.#behind(message.as_of) : this.#jumps(message) && message.strategy;
    if (!missing || this.#gaps.has(missing)) return undefined;
    this.#gaps.add(missing);
    return missing;
  }

  #jumps({ type, strategy, seq }) {
    if (!type.startsWith("trade.")) return false;
    const known = this.#known.get(strategy);
    return known === undefined || BigInt(seq) > known + 1n;
  }

  /** A strategy that was ahead of us at the heartbeat before, and which we have not come up with. */
  #behind(asOf) {
    let found;
    for (const [strategy, text] of Object.entries(asOf)) {
      const seq = BigInt(text), known = this.#known.get(strategy) ?? -1n;
      if (known < (this.#ahead.get(strategy) ?? -1n)) found = strategy;
      if (seq > known) this.#ahead.set(strategy, seq);
      else this.#ahead.delete(strategy);
    }
    return found;
  }

  /** Whether this delta is the next one; takes its number. */
  isNext({ strategy, seq }) {
    if (BigInt(seq) - 1n !== this.#known.get(strategy)) return false;
    this.#known.set(strategy, BigInt(seq));
    return true;
  }
}

/** What a socket brings, for a reader that awaits it. */
class Events {
  code = 1006;
  reason = "";
  #texts = [];
  #wake = () => {};
  #isClosed = false;

  message = (text) => {
    this.#texts.push(text);
    this.#wake();
  };

  close = (code, reason) => {
    if (this.#isClosed) return;
    [this.#isClosed, this.code, this.reason] = [true, code, reason];
    this.#wake();
  };

  /** The next text; null once the socket has closed. Throws after so long a silence. */
  async next(silenceMs) {
    if (!this.#texts.length && !this.#isClosed) {
      let timer;
      const silence = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`silent for ${silenceMs} ms`)), silenceMs);
      });
      const news = new Promise((resolve) => (this.#wake = resolve));
      await Promise.race([news, silence]).finally(() => clearTimeout(timer));
    }
    return this.#texts.shift() ?? null;
  }
}

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
});
