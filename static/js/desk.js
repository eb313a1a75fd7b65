// The open trades, live. The snapshot is the truth; deltas are applied while their numbers are consecutive.
const PATH = "/ws/v2/active";
const SILENCE_MS = 15_000; // a heartbeat comes every 5 s
const COPIES_MS = 20_000; // the stream tells of masters; one's own copies are read again with the snapshot
const LONGEST_WAIT_S = 30;
const EVENTS = 20;
const CLOSED = 20;
const REASONS = {
  TP: "take profit", SL: "stop loss", MANUAL: "by hand", STOP_OUT: "stopped out", RECONCILED: "found closed",
  STAFF: "by staff",
};
const VERBS = {
  "trade.opened": "opened", "trade.modified": "moved", "trade.reduced": "reduced", "trade.closed": "closed",
};

const byId = (id) => document.getElementById(id);
const body = byId("trades");
const places = JSON.parse(body.dataset.places); // decimals of the symbols that the page came with
const trades = new Map(); // by id: the trade and its row
let asOf = {};
let socket, silence, retrying;
let failures = 0;
let isAsking = false; // for a snapshot: until it comes, deltas tell nothing
let isFirst = true;
let closedCount = 0;
let closedProfit = 0;

// --- the socket

function connect() {
  clearTimeout(retrying);
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${PATH}`);
  socket.onmessage = (event) => { listen(); receive(JSON.parse(event.data)); };
  socket.onclose = (event) => (event.code === 1008 ? end() : retry());
  listen();
}

function listen() {
  clearTimeout(silence);
  silence = setTimeout(() => socket.close(), SILENCE_MS);
}

function retry() {
  clearTimeout(silence);
  isAsking = false;
  if (failures === 0) say("The connection is lost. Trying again.");
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
  const answer = await fetch(location.pathname, { method: "HEAD", redirect: "manual" }).catch(() => null);
  if (answer?.type === "opaqueredirect") end();
}

function end() {
  clearTimeout(silence);
  clearTimeout(retrying);
  show("off", "signed out");
  say("You are signed out.");
  byId("again").hidden = false;
}

function ask() {
  if (isAsking || socket.readyState !== WebSocket.OPEN) return;
  isAsking = true;
  socket.send('{"type":"resync"}');
}

// --- what it tells

function receive(message) {
  if (message.type === "snapshot") takeSnapshot(message);
  else if (message.type === "heartbeat") checkNumbers(message.as_of);
  else if (message.type in VERBS) takeDelta(message);
}

function takeSnapshot(message) {
  if (failures) say("Live again.");
  failures = 0;
  isAsking = false;
  asOf = Object.fromEntries(Object.entries(message.as_of).map(([name, seq]) => [name, Number(seq)]));
  const open = new Set(message.trades.map((trade) => trade.trade_id));
  for (const id of trades.keys()) if (!open.has(id)) forget(id);
  for (const trade of message.trades) put(trade, isFirst ? "" : trades.has(trade.trade_id) ? "changed" : "came");
  const newest = [...trades.values()].sort((a, b) => b.trade.opened_at.localeCompare(a.trade.opened_at));
  body.replaceChildren(...newest.map(({ row }) => row));
  isFirst = false;
  byId("taken").textContent = `snapshot of ${clock(new Date())}`;
  figures();
  show("live", "live");
}

function takeDelta(message) {
  const seq = Number(message.seq);
  const known = asOf[message.strategy];
  if (isAsking || seq <= known) return;
  if (seq !== known + 1) return ask();
  asOf[message.strategy] = seq;
  if (message.trade.kind === "TOMBSTONE") return; // a close that came before its open: there was nothing to see
  if (message.type === "trade.closed") close(message);
  else put(message.trade, message.type === "trade.opened" ? "came" : "changed");
  tell(message);
  figures();
}

function checkNumbers(numbers) {
  if (Object.entries(numbers).some(([name, seq]) => !(asOf[name] >= Number(seq)))) ask();
}

function close({ strategy, trade }) {
  forget(trade.trade_id);
  closedCount += 1;
  closedProfit += Number(trade.profit);
  const lists = [...document.querySelectorAll(".closed")];
  const list = lists.find((each) => JSON.parse(each.dataset.live).includes(strategy));
  if (!list) return;
  list.querySelector(".none")?.remove();
  list.prepend(closedRow(trade));
  while (list.rows.length > CLOSED) list.lastElementChild.remove();
}

// --- rows

function put(trade, how) {
  const old = trades.get(trade.trade_id);
  if (old && JSON.stringify(old.trade) === JSON.stringify(trade)) return;
  const row = openRow(trade);
  if (how) row.className = how;
  trades.set(trade.trade_id, { trade, row });
  if (old) old.row.replaceWith(row);
  else body.prepend(row);
}

function forget(id) {
  const gone = trades.get(id);
  trades.delete(id);
  if (!gone) return;
  gone.row.className = "went";
  setTimeout(() => gone.row.remove(), matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 600);
}

function openRow(trade) {
  const price = pricer(trade);
  const copy = trade.role === "copy" ? element("span", "chip", "held") : plain(trade.copy_volume, 2);
  const row = element("tr");
  row.dataset.id = trade.trade_id;
  row.append(
    cell("Symbol", trade.symbol, "symbol"), cell("Side", side(trade.type)), cell("Volume", plain(trade.volume, 2), "n"),
    cell("Your copy", copy, "n"), cell("Open price", price(trade.open_price), "n"),
    cell("Stop loss", price(trade.sl), "n"), cell("Take profit", price(trade.tp), "n"),
    cell("Opened", time(trade.opened_at, "ago")), cell("Strategy", trade.strategy), cell("No.", trade.seq, "n quiet"),
  );
  return row;
}

function closedRow(trade) {
  const price = pricer(trade);
  const row = element("tr", "came");
  row.append(
    cell("Closed", time(trade.closed_at, "moment")), cell("Symbol", trade.symbol, "symbol"),
    cell("Side", side(trade.type)), cell("Volume", plain(trade.volume, 2), "n"),
    cell("Open", price(trade.open_price), "n"),
    cell("Close", price(trade.close_price), "n"), cell("Profit", signed(trade.profit), `n ${tone(trade.profit)}`),
    cell("Why", REASONS[trade.reason] ?? trade.reason),
  );
  return row;
}

function tell({ type, trade }) {
  const price = pricer(trade);
  const lots = plain(trade.volume, 2);
  const what = {
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
  item.append(element("time", "", clock(new Date())), ` ${VERBS[type]} `, symbol, " ", side(trade.type), " ", ...what);
  const list = byId("events");
  list.querySelector(".empty")?.remove();
  list.prepend(item);
  while (list.children.length > EVENTS) list.lastElementChild.remove();
}

// --- words and figures

function element(name, kind = "", text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.textContent = text;
  return made;
}

function cell(label, content, kind = "") {
  const made = element("td", kind);
  made.dataset.label = label;
  made.append(content);
  return made;
}

// A symbol the page did not come with has as many decimals as the trade's own prices.
function pricer(trade) {
  const told = [trade.open_price, trade.sl, trade.tp].map((price) => plain(price).split(".")[1]?.length ?? 0);
  const digits = places[trade.symbol] ?? Math.max(...told);
  return (price) => plain(price, digits);
}

const side = (type) => element("span", `chip ${type.toLowerCase()}`, `${type === "BUY" ? "▲" : "▼"} ${type}`);

function plain(amount, most = 0) {
  if (amount == null) return "–";
  const [whole, digits = ""] = amount.split(".");
  const shown = digits.replace(/0+$/, "").padEnd(most, "0");
  return shown ? `${whole}.${shown}` : whole;
}

const cents = (amount) => Math.round(Number(amount) * 100);
const tone = (amount) => (cents(amount) > 0 ? "pos" : cents(amount) < 0 ? "neg" : "");
const signed = (amount) => `${{ pos: "+", neg: "−" }[tone(amount)] ?? ""}${Math.abs(Number(amount)).toFixed(2)}`;

const clock = (date) => date.toLocaleTimeString("en-GB");

function time(iso, kind) {
  const made = element("time");
  made.dateTime = iso;
  made.dataset[kind] = "";
  spell(made);
  return made;
}

function spell(element) {
  const then = new Date(element.dateTime);
  element.title = then.toLocaleString("en-GB");
  element.textContent = "ago" in element.dataset ? ago(then) : moment(then);
}

function ago(then) {
  const minutes = Math.floor((Date.now() - then) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  return minutes < 24 * 60 ? `${Math.floor(minutes / 60)} h ago` : `${Math.floor(minutes / (24 * 60))} d ago`;
}

function moment(then) {
  if (then.toDateString() === new Date().toDateString()) return clock(then);
  const day = then.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return `${day} ${then.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`;
}

function figures() {
  const open = [...trades.values()].map(({ trade }) => trade);
  const masters = open.filter((trade) => trade.role === "master");
  byId("count").textContent = masters.length;
  byId("copies").textContent = open.length - masters.length;
  byId("lots").textContent = masters.reduce((sum, trade) => sum + Number(trade.volume), 0).toFixed(2);
  byId("closed").textContent = closedCount;
  byId("profit").textContent = signed(closedProfit);
  byId("profit").className = tone(closedProfit);
  byId("none").hidden = open.length > 0;
  document.title = `(${masters.length}) Desk · Copydesk`;
}

function show(state, text) {
  byId("state").textContent = text;
  byId("state").dataset.state = state;
}

function say(text) {
  byId("said").textContent = text; // for screen readers: changes of state alone, no countdown
}

// --- begin

for (const hidden of document.querySelectorAll(".live[hidden]")) hidden.hidden = false;
byId("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
const spellAll = () => document.querySelectorAll("time[data-ago], time[data-moment]").forEach(spell);
spellAll();
setInterval(spellAll, 20_000);
setInterval(() => { if ("follows" in body.dataset && !document.hidden) ask(); }, COPIES_MS);
addEventListener("online", () => { if (socket.readyState === WebSocket.CLOSED && byId("again").hidden) connect(); });
connect();
