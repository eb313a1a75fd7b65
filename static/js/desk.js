// The open trades, live. A snapshot is complete; deltas are applied as long as their sequence numbers are consecutive.
const PATH = "/ws/v2/active";
const SILENCE_MS = 15_000; // a heartbeat comes every 5 s
const COPIES_MS = 20_000; // own copies make no events in the stream, so the snapshot is read again for them
const LONGEST_WAIT_S = 30;
const EVENTS = 20;
const CLOSED = 20;
const REASONS = {
  TP: "take profit", SL: "stop loss", MANUAL: "manual", STOP_OUT: "stop-out", RECONCILED: "found closed",
  STAFF: "by staff",
};
const VERBS = {
  "trade.opened": "opened", "trade.modified": "modified", "trade.reduced": "reduced", "trade.closed": "closed",
};

const byId = (id) => document.getElementById(id);
const body = byId("trades");
const decimals = JSON.parse(body.dataset.decimals); // of prices, for the symbols in the page as it was loaded
const trades = new Map(); // trade and row by trade id
let asOf = new Map();
let socket, silence, retrying;
let failures = 0;
let isResyncing = false; // deltas are ignored until the requested snapshot arrives
let isFirst = true;
let closedCount = 0;
let closedProfit = 0;

// --- the socket

function connect() {
  clearTimeout(retrying);
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${PATH}`);
  socket.onmessage = (event) => { watchSilence(); receive(JSON.parse(event.data)); };
  socket.onclose = (event) => (event.code === 1008 ? signedOut() : retry());
  watchSilence();
}

function watchSilence() {
  clearTimeout(silence);
  silence = setTimeout(() => socket.close(), SILENCE_MS);
}

function retry() {
  clearTimeout(silence);
  isResyncing = false;
  if (failures === 0) announce("Connection lost. Reconnecting.");
  failures += 1;
  if (failures % 3 === 0) checkSession();
  wait(Math.ceil(Math.min(LONGEST_WAIT_S, 2 ** (failures - 1)) * (0.5 + Math.random() / 2)));
}

function wait(seconds) {
  if (seconds <= 0) return connect();
  show("off", `reconnecting in ${seconds} s`);
  retrying = setTimeout(wait, 1000, seconds - 1);
}

async function checkSession() {
  const response = await fetch(location.pathname, { method: "HEAD", redirect: "manual" }).catch(() => null);
  if (response?.type === "opaqueredirect") signedOut();
}

function signedOut() {
  clearTimeout(silence);
  clearTimeout(retrying);
  show("off", "signed out");
  announce("You are signed out.");
  byId("sign-in").hidden = false;
}

function resync() {
  if (isResyncing || socket.readyState !== WebSocket.OPEN) return;
  isResyncing = true;
  socket.send('{"type":"resync"}');
}

// --- messages

function receive(message) {
  if (message.type === "snapshot") takeSnapshot(message);
  else if (message.type === "heartbeat") checkSequence(message.as_of);
  else if (message.type in VERBS) takeDelta(message);
}

function takeSnapshot(message) {
  if (failures) announce("Live again.");
  failures = 0;
  isResyncing = false;
  asOf = new Map(Object.entries(message.as_of).map(([name, seq]) => [name, Number(seq)]));
  const open = new Set(message.trades.map((trade) => trade.trade_id));
  for (const id of trades.keys()) if (!open.has(id)) remove(id);
  for (const trade of message.trades) {
    put(trade, isFirst ? "" : trades.has(trade.trade_id) ? "row-changed" : "row-added");
  }
  const newest = [...trades.values()].sort((a, b) => b.trade.opened_at.localeCompare(a.trade.opened_at));
  body.replaceChildren(...newest.map(({ row }) => row));
  isFirst = false;
  byId("taken").textContent = `updated ${clock(new Date())}`;
  showFigures();
  show("live", "live");
}

function takeDelta(message) {
  const seq = Number(message.seq);
  const lastSeq = asOf.get(message.strategy);
  if (isResyncing || seq <= lastSeq) return;
  if (seq !== lastSeq + 1) return resync();
  asOf.set(message.strategy, seq);
  if (message.type === "trade.hidden") return; // it opened while copying was paused
  if (message.trade.kind === "TOMBSTONE") return; // a close that arrived before its open: no row to remove
  if (message.type === "trade.closed") close(message);
  else put(message.trade, message.type === "trade.opened" ? "row-added" : "row-changed");
  addEvent(message);
  showFigures();
}

function checkSequence(asOfDesk) {
  if (Object.entries(asOfDesk).some(([name, seq]) => !(asOf.get(name) >= Number(seq)))) resync();
}

function close({ strategy, trade }) {
  remove(trade.trade_id);
  closedCount += 1;
  closedProfit += Number(trade.profit);
  const lists = [...document.querySelectorAll(".closed")];
  const list = lists.find((part) => JSON.parse(part.dataset.live).includes(strategy));
  if (!list) return;
  list.querySelector(".no-trades")?.remove();
  list.prepend(closedRow(trade));
  while (list.rows.length > CLOSED) list.lastElementChild.remove();
}

// --- rows

function put(trade, animation) {
  const old = trades.get(trade.trade_id);
  if (old && JSON.stringify(old.trade) === JSON.stringify(trade)) return;
  const row = openRow(trade);
  if (animation) row.className = animation;
  trades.set(trade.trade_id, { trade, row });
  if (old) old.row.replaceWith(row);
  else body.prepend(row);
}

function remove(id) {
  const closed = trades.get(id);
  trades.delete(id);
  if (!closed) return;
  closed.row.className = "row-removed";
  setTimeout(() => closed.row.remove(), matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 600);
}

function openRow(trade) {
  const price = pricer(trade);
  const copy = trade.role === "copy" ? element("span", "chip", "copy open") : amount(trade.copy_volume);
  const row = element("tr");
  row.dataset.id = trade.trade_id;
  row.append(
    cell("Symbol", trade.symbol, "symbol"), cell("Side", side(trade.type)), cell("Volume", amount(trade.volume), "n"),
    cell("Your copy", copy, "n"), cell("Open price", price(trade.open_price), "n"),
    cell("Stop loss", price(trade.sl), "n"), cell("Take profit", price(trade.tp), "n"),
    cell("Opened", time(trade.opened_at, "ago")), cell("Strategy", trade.strategy),
  );
  return row;
}

function closedRow(trade) {
  const price = pricer(trade);
  const row = element("tr", "row-added");
  row.append(
    cell("Closed", time(trade.closed_at, "moment")), cell("Symbol", trade.symbol, "symbol"),
    cell("Side", side(trade.type)),
    cell("Volume", amount(trade.volume), "n"), cell("Open", price(trade.open_price), "n"),
    cell("Close", price(trade.close_price), "n"), cell("Profit", signed(trade.profit), `n ${tone(trade.profit)}`),
    cell("Reason", REASONS[trade.reason] ?? trade.reason),
  );
  return row;
}

function addEvent({ type, trade }) {
  const price = pricer(trade);
  const lots = amount(trade.volume);
  const details = {
    "trade.opened": () => [`${lots} at ${price(trade.open_price)}`],
    "trade.modified": () => [`stop ${price(trade.sl)}, target ${price(trade.tp)}`],
    "trade.reduced": () => [`to ${lots}`],
    "trade.closed": () => [
      `${lots} at ${price(trade.close_price)}, `, element("b", tone(trade.profit), signed(trade.profit)),
      `, ${REASONS[trade.reason] ?? trade.reason}`,
    ],
  }[type]();
  const item = element("li");
  const symbol = element("b", "", trade.symbol);
  const at = element("time", "", clock(new Date()));
  item.append(at, ` ${VERBS[type]} `, symbol, " ", side(trade.type), " ", ...details);
  const list = byId("events");
  list.querySelector(".empty")?.remove();
  list.prepend(item);
  while (list.children.length > EVENTS) list.lastElementChild.remove();
}

// --- formatting

function element(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.textContent = text;
  return node;
}

function cell(label, content, className = "") {
  const node = element("td", className);
  node.dataset.label = label;
  node.append(content);
  return node;
}

// Prices of a symbol that was not in the page as loaded get as many decimals as the trade's own prices have.
function pricer(trade) {
  const lengths = [trade.open_price, trade.sl, trade.tp].map((price) => plain(price).split(".")[1]?.length ?? 0);
  const digits = decimals[trade.symbol] ?? Math.max(...lengths);
  return (price) => plain(price, digits);
}

const side = (type) => element("span", `chip ${type.toLowerCase()}`, `${type === "BUY" ? "▲" : "▼"} ${type}`);

function plain(value, least = 0) {
  if (value == null) return "–";
  const [whole, digits = ""] = value.split(".");
  const fraction = digits.replace(/0+$/, "").padEnd(least, "0");
  return fraction ? `${whole}.${fraction}` : whole;
}

// Money and lots: at least two decimals, thousands separated. Prices have no separators.
function amount(value) {
  const [whole, fraction] = plain(value, 2).split(".");
  return fraction ? `${whole.replace(/\B(?=(\d{3})+$)/g, ",")}.${fraction}` : whole;
}

const cents = (value) => Math.round(Number(value) * 100);
const tone = (value) => (cents(value) > 0 ? "pos" : cents(value) < 0 ? "neg" : "");
const signed = (value) => `${{ pos: "+", neg: "−" }[tone(value)] ?? ""}${amount(Math.abs(Number(value)).toFixed(2))}`;

const clock = (date) => date.toLocaleTimeString("en-GB");

function time(iso, format) {
  const node = element("time");
  node.dateTime = iso;
  node.dataset[format] = "";
  showTime(node);
  return node;
}

function showTime(node) {
  const date = new Date(node.dateTime);
  node.title = date.toLocaleString("en-GB");
  node.textContent = "ago" in node.dataset ? ago(date) : moment(date);
}

function ago(date) {
  const minutes = Math.floor((Date.now() - date) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  return minutes < 24 * 60 ? `${Math.floor(minutes / 60)} h ago` : `${Math.floor(minutes / (24 * 60))} d ago`;
}

function moment(date) {
  if (date.toDateString() === new Date().toDateString()) return clock(date);
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return `${day} ${date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`;
}

function showFigures() {
  const open = [...trades.values()].map(({ trade }) => trade);
  const masters = open.filter((trade) => trade.role === "master");
  byId("count").textContent = masters.length;
  byId("copies").textContent = open.length - masters.length;
  byId("lots").textContent = amount(masters.reduce((sum, trade) => sum + Number(trade.volume), 0).toFixed(2));
  byId("closed").textContent = closedCount;
  byId("profit").textContent = signed(closedProfit);
  byId("profit").className = tone(closedProfit);
  byId("no-trades").hidden = open.length > 0;
  document.title = `(${masters.length}) Desk · Copydesk`;
}

function show(state, text) {
  byId("state").textContent = text;
  byId("state").dataset.state = state;
}

function announce(text) {
  byId("announcement").textContent = text; // for screen readers: changes of state alone, without the countdown
}

// --- start

for (const part of document.querySelectorAll(".live[hidden]")) part.hidden = false;
byId("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
const showTimes = () => document.querySelectorAll("time[data-ago], time[data-moment]").forEach(showTime);
showTimes();
setInterval(showTimes, 20_000);
setInterval(() => { if ("follows" in body.dataset && !document.hidden) resync(); }, COPIES_MS);
addEventListener("online", () => { if (socket.readyState === WebSocket.CLOSED && byId("sign-in").hidden) connect(); });
connect();
