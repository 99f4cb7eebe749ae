// The page follows the stream of frames and shows each frame in the document. Elements are created once and then only
// changed, so that none loses its focus or its scroll position.
import { Chart } from "./chart.js";

const $ = (id) => document.getElementById(id);
const chart = new Chart($("timeline"));
const cards = new Map(); // by node's name
let run = ""; // the run that the page shows; when another run begins, the page is cleared
let lastEvent = 0;
let refusal = ""; // the error of the last button press, if it failed

const source = new EventSource("api/events");
source.onopen = () => link("live", "live");
source.onerror = () => link("lost", chart.ended ? "the demo has ended" : "no connection, trying again");
source.onmessage = (message) => show(JSON.parse(message.data));

document.addEventListener("click", (click) => {
  const button = click.target.closest("button[data-action]");
  if (button && button.getAttribute("aria-disabled") !== "true") act(button.dataset.action, button.dataset.node ?? "");
});

async function act(action, node) {
  const request = { method: "POST", headers: { "Hasql-Run": run }, body: new URLSearchParams({ action, node }) };
  try {
    const answer = await fetch("api/action", request);
    refusal = answer.ok ? "" : await answer.text();
  } catch (error) {
    refusal = error.message;
  }
}

function show(frame) {
  if (frame.run !== run) {
    run = frame.run;
    lastEvent = 0;
    cards.clear();
    $("nodes").replaceChildren();
    $("log").replaceChildren();
    chart.reset();
  }
  set($("headline"), headline(frame));
  set($("facts"), facts(frame));
  set($("busy"), frame.busy ? `${frame.busy} under way …` : refusal);
  document.title = `${masters(frame)[0]?.name ?? "no master"} · hasql`;
  for (const node of frame.nodes) showNode(node, frame);
  offer($("switchover"), frame.actions, frame.owned);
  share($("pause"), frame.actions);
  offer($("pause"), frame.actions, frame.owned);
  document.body.classList.toggle("promised", frame.promised);
  showCounts(frame.writes);
  showOutages(frame.outages);
  showEvents(frame.events);
  chart.take(frame);
}

const masters = (frame) => frame.nodes.filter((n) => n.role === "master");

function headline(frame) {
  if (frame.phase === "starting") return "Starting …";
  if (frame.phase === "ended") return frame.verdict;
  const [master] = masters(frame);
  if (frame.paused) return "Writes are paused";
  if (!master) return "No master is known";
  return `${master.name} takes the writes`;
}

function facts(frame) {
  if (frame.phase === "starting") return "PostgreSQL is being started";
  return `PostgreSQL ${frame.postgresql}, for ${clock(frame.now_ms)}`;
}

function clock(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
}

// Words for the statuses, for readers who do not know those of the library.
const words = { up: "", suspect: "suspect", down: "down", stale: "fenced", foreign: "another cluster", banned: "drained" };

function showNode(node, frame) {
  let card = cards.get(node.name);
  if (!card) {
    card = $("node").content.firstElementChild.cloneNode(true);
    set(card.querySelector("h3"), node.name);
    for (const button of card.querySelectorAll("button")) button.dataset.node = node.name;
    cards.set(node.name, card);
    $("nodes").append(card);
  }
  const kind = node.status === "up" ? node.role : node.status;
  const name = `node ${kind}`;
  if (card.className !== name) card.className = name;
  set(card.querySelector(".role"), words[node.status] || node.role);
  set(card.querySelector(".cause"), node.cause || ordinary(node));
  const field = (name, text) => set(card.querySelector(`[data-field="${name}"]`), text);
  const up = node.status === "up";
  field("timeline", node.timeline || "–");
  field("lag", !up || node.role === "master" || node.lag_ms === null ? "–" : ms(node.lag_ms));
  field("latency", node.latency_ms ? ms(node.latency_ms) : "–");
  field("age", node.evidence_age_ms === null ? "–" : `${(node.evidence_age_ms / 1000).toFixed(1)} s ago`);
  field("pool", `${node.in_use} / ${node.max_conns}`);
  const meter = card.querySelector("meter");
  meter.max = node.max_conns;
  meter.value = node.in_use;
  card.querySelector(".buttons").hidden = !frame.owned;
  for (const button of card.querySelectorAll("button")) {
    share(button, node.actions);
    button.setAttribute("aria-label", `${button.textContent} ${node.name}`);
    offer(button, node.actions, frame.owned);
  }
}

function ordinary(node) {
  if (node.role === "master") return "takes writes";
  if (node.role === "replica") return node.lag_bytes ? `${node.lag_bytes.toLocaleString("en")} bytes behind` : "takes reads";
  return "";
}

// Actions that undo each other share one button.
const pairs = [
  [["freeze", "Freeze"], ["thaw", "Thaw"]],
  [["drain", "Drain"], ["unban", "Return"]],
  [["pause", "Pause writes"], ["resume", "Resume writes"]],
];

// share makes a button what is possible now. While neither action of its pair is possible it stays as it is.
function share(button, actions) {
  const pair = pairs.find((pair) => pair.some(([action]) => action === button.dataset.action));
  for (const [action, text] of pair ?? []) {
    if (!actions.includes(action)) continue;
    button.dataset.action = action;
    set(button, text);
  }
}

function offer(button, actions, owned) {
  button.hidden = !owned;
  const disabled = String(!actions?.includes(button.dataset.action));
  if (button.getAttribute("aria-disabled") !== disabled) button.setAttribute("aria-disabled", disabled);
}

function showCounts(writes) {
  for (const name of ["acknowledged", "failed", "lost", "stray"]) set($(name), writes[name].toLocaleString("en"));
  for (const name of ["lost", "stray"]) $(name).parentElement.classList.toggle("broken", writes[name] > 0);
}

// Words for the kinds of outages.
const kinds = { crash: "crash", freeze: "freeze", switchover: "switchover", failover: "failover", pause: "pause" };
const path = (o) => (o.from === o.to ? o.to : `${o.from} → ${o.to}`);
let shownOutages = "";

function showOutages(outages) {
  const key = JSON.stringify(outages);
  if (key === shownOutages) return;
  shownOutages = key;
  $("outages").replaceChildren(...outages.toReversed().map((o) => {
    const row = document.createElement("tr");
    row.append(
      cell(kinds[o.kind]), cell(path(o)), cell(ms(o.outage_ms), "number"),
      cell(o.cluster_outage_ms === null ? "–" : ms(o.cluster_outage_ms), "number"));
    return row;
  }));
  const last = outages.findLast((o) => o.kind !== "pause");
  set($("last-unit"), last ? "ms" : "");
  if (!last) {
    set($("last-length"), "–");
    set($("last-what"), "none so far");
    return;
  }
  set($("last-length"), Math.round(last.outage_ms).toLocaleString("en"));
  set($("last-what"), `${kinds[last.kind]}, ${path(last)}`);
  const after = last.after_accept_ms;
  set($("last-cluster"), after === null ? "–" : ms(last.outage_ms - after));
  set($("last-hasql"), after === null ? "–" : ms(after));
  const share = after === null ? 0 : (100 * after) / last.outage_ms;
  $("split-cluster").style.width = `${100 - share}%`;
  $("split-hasql").style.width = `${share}%`;
}

function cell(text, name = "") {
  const td = document.createElement("td");
  td.className = name;
  td.textContent = text;
  return td;
}

const keptLines = 300;

function showEvents(events) {
  const box = $("log-box");
  const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  let added = false;
  for (const e of events) {
    if (e.number <= lastEvent) continue;
    lastEvent = e.number;
    const line = document.createElement("li");
    line.className = e.kind;
    const at = document.createElement("time");
    at.textContent = `${(e.at_ms / 1000).toFixed(3)} s`;
    const text = document.createElement(e.kind === "noticed" ? "span" : "b");
    text.textContent = e.text;
    line.append(at, text);
    $("log").append(line);
    added = true;
  }
  while ($("log").childElementCount > keptLines) $("log").firstElementChild.remove();
  if (added && atEnd) box.scrollTop = box.scrollHeight;
}

function ms(value) {
  return `${value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(1)} ms`;
}

function link(name, text) {
  $("link").className = name;
  set($("link"), text);
}

// set changes an element only if its text differs, so that screen readers announce only changes.
function set(element, text) {
  text = String(text);
  if (element.textContent !== text) element.textContent = text;
}
