// The timeline: a lane for each node, writes above its line and reads below, outages as bands across all lanes.

const columnBins = 3; // bins in one bar
const delay = 300; // ms that the right edge is behind, so that bars are complete when they appear
const openAfter = 120; // ms of silence that show as an outage before it has ended
const top = 46; // px for the outages' labels
const failedHeight = 18;
const axisHeight = 24;
const keptStates = 100;

export class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.reset();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.colors = null));
    new ResizeObserver(() => this.resize()).observe(canvas);
    const loop = (now) => {
      // For users who prefer reduced motion the chart is drawn once per second.
      if (!this.still.matches || now - (this.drawnAt ?? -1e9) >= 1000) {
        this.drawnAt = now;
        this.draw(now);
      }
      requestAnimationFrame(loop);
    };
    requestAnimationFrame(loop);
  }

  reset() {
    this.frame = null;
    this.bins = new Map(); // by number
    this.states = new Map(); // by node: its state, and since when this page has seen it
    this.offset = -Infinity; // from the browser's clock to the workload's
    this.ended = false;
  }

  take(frame) {
    this.frame = frame;
    this.ended = frame.phase === "ended";
    if (frame.phase === "starting") return; // the workload has not begun
    const { first, bins } = frame.timeline;
    bins.forEach((bin, i) => this.bins.set(first + i, bin));
    const oldest = first + bins.length - 3200;
    for (const number of this.bins.keys()) {
      if (number >= oldest) break;
      this.bins.delete(number);
    }
    for (const node of frame.nodes) {
      const states = this.states.get(node.name) ?? [];
      if (states.at(-1)?.status !== node.status) states.push({ status: node.status, from: frame.now_ms });
      this.states.set(node.name, states.slice(-keptStates));
    }
    const last = frame.outages.findLast((o) => o.kind !== "pause");
    const label = "Writes and reads by node over time." + (last ? ` Last failover: ${Math.round(last.outage_ms)} ms, ${last.from} to ${last.to}.` : "");
    if (this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
    // A frame may arrive late but never early, so the largest difference is the best estimate. The estimate decays because
    // clocks drift.
    this.offset = Math.max(this.offset - 0.05, frame.now_ms - performance.now());
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.drawnAt = -1e9;
  }

  palette() {
    const style = getComputedStyle(this.canvas);
    const get = (name) => style.getPropertyValue(`--${name}`).trim();
    return {
      ink: get("ink"), soft: get("soft"), line: get("line"), card: get("card"), write: get("write"), read: get("read"),
      bad: get("bad"), outage: get("outage"), wash: get("outage-wash"), font: style.fontFamily,
    };
  }

  draw(clock) {
    const { pen, frame } = this;
    const ratio = devicePixelRatio || 1;
    const width = this.canvas.width / ratio;
    const height = this.canvas.height / ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!frame || frame.nodes.length === 0) return;
    this.colors ??= this.palette();

    const span = Math.min(28000, Math.max(9000, (width / 44) * 1000));
    const now = this.ended ? frame.now_ms : Math.min(clock + this.offset, frame.now_ms + 2000) - delay;
    const view = {
      width, height, now,
      x: (t) => width - ((now - t) / span) * width,
      from: now - span,
      lane: (height - top - failedHeight - axisHeight) / frame.nodes.length,
    };
    const outages = this.outages(view);
    this.axis(view, span);
    for (const outage of outages) this.band(view, outage);
    this.bars(view);
    this.lanes(view);
    for (const outage of outages) this.way(view, outage);
  }

  // baseline is the line between a node's writes and its reads.
  baseline(view, node) {
    return top + view.lane * (node + 0.66);
  }

  axis(view, span) {
    const { pen, colors } = this;
    const step = span > 15000 ? 5000 : 2000;
    pen.font = `12px ${colors.font}`;
    pen.fillStyle = colors.soft;
    pen.textAlign = "center";
    for (let t = Math.max(0, Math.ceil(view.from / step) * step); t < view.now; t += step) {
      const x = view.x(t);
      pen.fillStyle = colors.line;
      pen.fillRect(x - 0.5, top - 6, 1, view.height - top - axisHeight + 8);
      pen.fillStyle = colors.soft;
      if (x > 20 && x < view.width - 20) pen.fillText(`${t / 1000} s`, x, view.height - 8);
    }
  }

  lanes(view) {
    const { pen, colors, frame } = this;
    pen.textAlign = "left";
    frame.nodes.forEach((node, i) => {
      const y = this.baseline(view, i);
      pen.fillStyle = colors.line;
      pen.fillRect(0, y - 0.5, view.width, 1);
      this.states.get(node.name)?.forEach((state, k, all) => {
        if (state.status === "up") return;
        const a = Math.max(0, view.x(state.from)), b = Math.min(view.width, view.x(all[k + 1]?.from ?? view.now));
        pen.fillStyle = state.status === "stale" || state.status === "suspect" ? colors.outage : colors.bad;
        if (b > a) pen.fillRect(a, y - 1.5, b - a, 3);
      });
      pen.font = `600 13px ${colors.font}`;
      const label = pen.measureText(node.name).width;
      pen.fillStyle = colors.card;
      pen.globalAlpha = 0.85;
      pen.beginPath();
      pen.roundRect(8, y - 29, label + 12, 21, 6);
      pen.fill();
      pen.globalAlpha = 1;
      pen.fillStyle = colors.ink;
      pen.fillText(node.name, 14, y - 14);
    });
  }

  bars(view) {
    const { pen, colors, frame } = this;
    const nodes = frame.nodes.length;
    const width = frame.timeline.width_ms * columnBins;
    const columns = [];
    const writes = [], reads = [];
    for (let column = Math.max(0, Math.floor(view.from / width)); column * width < view.now; column++) {
      const sum = new Array(2 * nodes + 2).fill(0);
      for (let i = 0; i < columnBins; i++) this.bins.get(column * columnBins + i)?.forEach((n, k) => (sum[k] += n));
      columns.push([column, sum]);
      for (let i = 0; i < nodes; i++) {
        if (sum[i] > 0) writes.push(sum[i]);
        if (sum[nodes + i] > 0) reads.push(sum[nodes + i]);
      }
    }
    const most = usual(writes), mostReads = usual(reads);
    const bar = Math.max(1, view.x(width) - view.x(0) - 0.8);
    const up = view.lane * 0.58, down = view.lane * 0.26;
    for (const [column, sum] of columns) {
      const x = view.x(column * width);
      for (let i = 0; i < nodes; i++) {
        const y = this.baseline(view, i);
        pen.fillStyle = colors.write;
        const w = Math.min(1, sum[i] / most) * up;
        if (w > 0) pen.fillRect(x, y - 1 - w, bar, w);
        pen.fillStyle = colors.read;
        const r = Math.min(1, sum[nodes + i] / mostReads) * down;
        if (r > 0) pen.fillRect(x, y + 1, bar, r);
      }
      const failed = sum[2 * nodes] + sum[2 * nodes + 1];
      if (failed > 0) {
        pen.fillStyle = colors.bad;
        const h = Math.min(failedHeight - 4, 4 + failed);
        pen.fillRect(x - 0.5, view.height - axisHeight - h, Math.max(bar, 3), h);
      }
    }
  }

  // outages returns the outages in view, including one that has not ended.
  outages(view) {
    const { frame } = this;
    const list = frame.outages.filter((o) => o.ended_ms > view.from && o.began_ms < view.now);
    const { since_last_ack_ms: silence, last_acknowledging: last } = frame.writes;
    if (last && silence > openAfter && !this.ended) {
      const began = frame.now_ms - silence;
      list.push({ kind: "", from: last, to: null, began_ms: began, ended_ms: view.now, outage_ms: Math.max(0, view.now - began) });
    }
    return list;
  }

  band(view, outage) {
    const { pen, colors } = this;
    const a = view.x(outage.began_ms), b = Math.max(view.x(outage.ended_ms), a + 2);
    const bottom = view.height - axisHeight;
    pen.fillStyle = colors.wash;
    pen.fillRect(a, top - 6, b - a, bottom - top + 6);
    pen.fillStyle = colors.outage;
    pen.fillRect(a - 0.5, top - 6, 1, bottom - top + 6);
    pen.fillRect(b - 0.5, top - 6, 1, bottom - top + 6);
  }

  // way draws a line from the last write on the old master to the first write on the new master.
  way(view, outage) {
    const { pen, colors, frame } = this;
    const a = view.x(outage.began_ms), b = Math.max(view.x(outage.ended_ms), a + 2);
    const lane = (name) => frame.nodes.findIndex((n) => n.name === name);
    if (outage.to && outage.to !== outage.from) {
      const y1 = this.baseline(view, lane(outage.from)), y2 = this.baseline(view, lane(outage.to));
      pen.strokeStyle = pen.fillStyle = colors.outage;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.moveTo(a, y1);
      pen.bezierCurveTo((a + b) / 2, y1, (a + b) / 2, y2, b, y2);
      pen.stroke();
      for (const [x, y] of [[a, y1], [b, y2]]) {
        pen.beginPath();
        pen.arc(x, y, 3.5, 0, 7);
        pen.fill();
      }
    }
    const text = `${Math.round(outage.outage_ms)} ms`;
    pen.textAlign = "center";
    pen.font = `600 14px ${colors.font}`;
    const half = pen.measureText(text).width / 2 + 8;
    const x = Math.min(Math.max((a + b) / 2, half + 4), view.width - half - 4);
    pen.fillStyle = colors.ink;
    pen.fillText(text, x, 33);
    pen.font = `12px ${colors.font}`;
    pen.fillStyle = colors.soft;
    pen.fillText(outage.kind, x, 17);
  }
}

// usual returns the count that a bar of full height stands for. Nearly all bars are lower, so that a single burst does not
// make all others small.
function usual(counts) {
  counts.sort((a, b) => a - b);
  return Math.max(1, counts[Math.floor(counts.length * 0.97)] ?? 1);
}
