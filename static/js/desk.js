// The open trades, live. The snapshot is the truth; deltas are applied while their numbers are consecutive.
const PATH = "/ws/v2/active";
const SILENCE_MS = 15000; // a heartbeat comes every 5 s
const EVENTS = 14;
const byId = (id) => document.getElementById(id);
const trades = new Map();
let asOf = {};
let socket, silence, failures = 0, closedCount = 0, closedProfit = 0;

const plain = (amount) => (amount == null ? "–" : amount.includes(".") ? amount.replace(/\.?0+$/, "") : amount);
const clock = (date) => date.toLocaleTimeString([], { hour12: false });
const signed = (amount) => `${amount >= 0 ? "+" : "−"}${Math.abs(amount).toFixed(2)}`;

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}${PATH}`);
  socket.onmessage = (event) => { listen(); receive(JSON.parse(event.data)); };
  socket.onclose = () => retry();
  listen();
}

function listen() {
  clearTimeout(silence);
  silence = setTimeout(() => socket.close(), SILENCE_MS);
}

function retry() {
  clearTimeout(silence);
  const most = Math.min(30, 2 ** failures++);
  let wait = Math.ceil(most * (0.5 + Math.random() / 2));
  const tick = () => {
    if (wait <= 0) return connect();
    show("off", `reconnecting in ${wait} s`);
    wait -= 1;
    setTimeout(tick, 1000);
  };
  tick();
}

function receive(message) {
  if (message.type === "snapshot") return takeSnapshot(message);
  if (message.type === "heartbeat") return checkNumbers(message.as_of);
  if (message.type.startsWith("trade.")) takeDelta(message);
}

function takeSnapshot(message) {
  failures = 0;
  asOf = Object.fromEntries(Object.entries(message.as_of).map(([name, seq]) => [name, Number(seq)]));
  trades.clear();
  byId("trades").replaceChildren();
  for (const trade of message.trades) put(trade);
  figures();
  show("live", "live");
}

function takeDelta(message) {
  const seq = Number(message.seq);
  if (seq !== (asOf[message.strategy] ?? -1) + 1) return socket.send('{"type":"resync"}');
  asOf[message.strategy] = seq;
  const { trade } = message;
  if (message.type === "trade.closed") {
    take(trade);
    closedCount += 1;
    closedProfit += Number(trade.profit);
  } else put(trade, message.type === "trade.opened" ? "came" : "changed");
  tell(message);
  figures();
  show("live", "live");
}

function checkNumbers(numbers) {
  const behind = Object.entries(numbers).some(([name, seq]) => Number(seq) > (asOf[name] ?? -1));
  if (behind) socket.send('{"type":"resync"}');
}

function cell(text, kind) {
  const td = document.createElement("td");
  td.textContent = text;
  if (kind) td.className = kind;
  return td;
}

function chip(type) {
  const span = document.createElement("span");
  span.className = `chip ${type.toLowerCase()}`;
  span.textContent = `${type === "BUY" ? "▲" : "▼"} ${type}`;
  return span;
}

function put(trade, how) {
  trades.set(trade.trade_id, trade);
  const side = document.createElement("td");
  side.append(chip(trade.type));
  const row = document.createElement("tr");
  row.dataset.id = trade.trade_id;
  row.append(
    cell(trade.symbol), side, cell(plain(trade.volume), "n"), cell(plain(trade.copy_volume), "n"), cell(plain(trade.open_price), "n"),
    cell(plain(trade.sl), "n"), cell(plain(trade.tp), "n"), cell(clock(new Date(trade.opened_at))), cell(trade.strategy), cell(trade.seq, "n"),
  );
  if (how) row.className = how;
  const old = byId("trades").querySelector(`[data-id="${trade.trade_id}"]`);
  if (old) old.replaceWith(row);
  else if (how) byId("trades").prepend(row);
  else byId("trades").append(row);
}

function take(trade) {
  trades.delete(trade.trade_id);
  const row = byId("trades").querySelector(`[data-id="${trade.trade_id}"]`);
  if (!row) return;
  row.className = "went";
  setTimeout(() => row.remove(), 600);
}

const VERBS = { "trade.opened": "opened", "trade.modified": "stops", "trade.reduced": "part of", "trade.closed": "closed" };

function tell(message) {
  const { trade } = message;
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = clock(new Date());
  const what = document.createElement("span");
  what.textContent = VERBS[message.type];
  const details = document.createElement("span");
  details.textContent = `${plain(trade.volume)} ${trade.symbol} ${detail(message.type, trade)}`;
  item.append(time, what, chip(trade.type), details);
  if (message.type === "trade.closed") {
    const result = document.createElement("b");
    const profit = Number(trade.profit);
    result.textContent = signed(profit);
    result.className = profit < 0 ? "neg" : "pos";
    item.append(result);
  }
  const list = byId("events");
  list.querySelector(".empty")?.remove();
  list.prepend(item);
  while (list.children.length > EVENTS) list.lastChild.remove();
}

function detail(type, trade) {
  if (type === "trade.opened") return `at ${plain(trade.open_price)}`;
  if (type === "trade.modified") return `to ${plain(trade.sl)}`;
  if (type === "trade.reduced") return `left, at ${plain(trade.close_price)}`;
  return `at ${plain(trade.close_price)} · ${trade.reason}`;
}

function figures() {
  const lots = [...trades.values()].reduce((sum, trade) => sum + Number(trade.volume), 0);
  byId("count").textContent = trades.size;
  byId("lots").textContent = lots.toFixed(2);
  byId("closed").textContent = closedCount;
  byId("profit").textContent = closedCount ? signed(closedProfit) : "0.00";
  byId("profit").className = closedProfit < 0 ? "neg" : closedProfit > 0 ? "pos" : "";
  byId("none").hidden = trades.size > 0;
  document.title = `(${trades.size}) Desk · Copydesk`;
}

function show(state, text) {
  const element = byId("state");
  if (element.textContent !== text) element.textContent = text;
  element.dataset.state = state;
}

connect();
