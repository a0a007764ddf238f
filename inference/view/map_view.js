/* Maps to look at: pan, zoom, two layers with a swipe between them, values under the pointer.

   Every element of class treeline-map holds a JSON description (inference/view/description.py says what is in
   it). Places in it are metres on the ground, x to the right and y down, from a corner that it names. A layer's
   pixels are in the page (data, picture) or come from the server as tiles. Nothing else is ever asked for. */
"use strict";
(() => {
  const MISSING = -32768;
  const TILE = 256;
  const MOST_TILES = 400;
  const PAN_STEP = 60;
  const ZOOM_STEP = 1.5;
  const LONGEST_BAR = 130;

  const round125 = (most) => {
    const power = 10 ** Math.floor(Math.log10(most));
    return power * [5, 2, 1].find((step) => step * power <= most);
  };

  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Int16Array(await new Response(stream).arrayBuffer());
  }

  function colourOf(scale, value) {
    if (scale.numbers) return scale.colours[scale.numbers.indexOf(value)];
    if (scale.edges.length) return scale.colours[scale.edges.filter((edge) => edge <= value).length];
    const share = Math.min(Math.max((value - scale.low) / (scale.high - scale.low), 0), 1);
    return scale.colours[Math.min(Math.floor(share * scale.colours.length), scale.colours.length - 1)];
  }

  /* Layer whose pixels are in the page. */
  class InPage {
    constructor(layer, changed) {
      this.layer = layer;
      if (layer.picture) {
        this.drawable = new Image();
        this.drawable.onload = changed;
        this.drawable.src = layer.picture;
      }
      if (layer.data) inflated(layer.data).then((stored) => { this.fill(stored); changed(); });
    }

    fill(stored) {
      const { width, height, scale, step } = this.layer;
      this.stored = stored;
      if (!scale) return;
      const pixels = new ImageData(width, height);
      const known = new Map();
      stored.forEach((one, place) => {
        if (one === MISSING) return;
        if (!known.has(one)) known.set(one, [...(colourOf(scale, one * step) || [0, 0, 0]), 255]);
        pixels.data.set(known.get(one), 4 * place);
      });
      this.drawable = document.createElement("canvas");
      Object.assign(this.drawable, { width, height });
      this.drawable.getContext("2d").putImageData(pixels, 0, 0);
    }

    draw(context, toScreen) {
      if (!this.drawable || !(this.drawable.width > 0)) return;
      const [left, top, right, bottom] = toScreen(this.layer.rect);
      context.imageSmoothingEnabled = right - left < this.layer.width;
      context.drawImage(this.drawable, left, top, right - left, bottom - top);
    }

    text(x, y) {
      const { rect, width, height, step, scale, unit, kind, names } = this.layer;
      if (!this.stored) return null; // a picture shows, and measures nothing
      const column = Math.floor(((x - rect[0]) / (rect[2] - rect[0])) * width);
      const row = Math.floor(((y - rect[1]) / (rect[3] - rect[1])) * height);
      const inside = column >= 0 && row >= 0 && column < width && row < height;
      const stored = inside ? this.stored[row * width + column] : MISSING;
      if (stored === MISSING) return "no value";
      if (kind === "classes") return names[scale.numbers.indexOf(stored)] || String(stored);
      const value = (stored * step).toFixed(this.layer.decimals);
      return `${kind === "difference" && value > 0 ? "+" : ""}${value} ${unit}`;
    }
  }

  /* Layer of tiles. At level n a tile's pixel is 2^n base pixels wide, and base pixels are counted from 0, 0. */
  class Tiles {
    constructor(layer, changed) {
      Object.assign(this, { layer, changed, tiles: new Map() });
    }

    level(metres) {
      const wanted = Math.round(Math.log2(metres / this.layer.tiles.pixel[0]) - 0.2);
      return Math.min(Math.max(wanted, this.layer.tiles.finest), this.layer.tiles.coarsest);
    }

    source(level, column, row) {
      const { url, zoom } = this.layer.tiles;
      return url.replaceAll("{level}", level).replaceAll("{z}", zoom - level)
        .replaceAll("{x}", column).replaceAll("{y}", row);
    }

    tile(level, column, row, ask) {
      const key = `${level}/${column}/${row}`;
      let tile = this.tiles.get(key);
      if (tile) { // the most recently used is the last
        this.tiles.delete(key);
        this.tiles.set(key, tile);
      } else if (ask) {
        tile = new Image();
        tile.onload = () => { tile.isThere = true; this.changed(); };
        tile.src = this.source(level, column, row);
        this.tiles.set(key, tile);
        if (this.tiles.size > MOST_TILES) this.tiles.delete(this.tiles.keys().next().value);
      }
      return tile && tile.isThere ? tile : null;
    }

    rect(level, column, row) {
      const [wide, high] = this.layer.tiles.pixel.map((side) => side * TILE * 2 ** level);
      return [column * wide, row * high, (column + 1) * wide, (row + 1) * high];
    }

    draw(context, toScreen, seen, metres) {
      const level = this.level(metres);
      const [wide, high] = this.layer.tiles.pixel.map((side) => side * TILE * 2 ** level);
      const { rect } = this.layer;
      const [left, top, right, bottom] = [Math.max(seen[0], rect[0]), Math.max(seen[1], rect[1]),
        Math.min(seen[2], rect[2]), Math.min(seen[3], rect[3])];
      context.imageSmoothingEnabled = this.layer.tiles.pixel[0] * 2 ** level < metres;
      for (let row = Math.floor(top / high); row * high < bottom; row++)
        for (let column = Math.floor(left / wide); column * wide < right; column++)
          this.drawOne(context, toScreen(this.rect(level, column, row)), level, column, row);
    }

    /* Until a tile is there, its part of a coarser one that is. */
    drawOne(context, [left, top, right, bottom], level, column, row) {
      for (let up = 0; level + up <= this.layer.tiles.coarsest; up++) {
        const share = 2 ** up;
        const [outerColumn, outerRow] = [Math.floor(column / share), Math.floor(row / share)];
        const tile = this.tile(level + up, outerColumn, outerRow, up === 0);
        if (!tile) continue;
        const side = TILE / share;
        context.drawImage(tile, (column - outerColumn * share) * side, (row - outerRow * share) * side,
          side, side, left, top, right - left, bottom - top);
        return;
      }
    }
  }

  class MapView {
    constructor(root) {
      this.root = root;
      this.about = JSON.parse(root.querySelector("script").textContent);
      const part = (name) => root.querySelector(`.${name}`);
      this.part = part;
      this.canvas = part("map");
      const changed = () => this.redraw();
      this.layers = this.about.layers.map((layer) => new (layer.tiles ? Tiles : InPage)(layer, changed));
      this.shown = { ...this.about.shown };
      this.swipe = 0.5;
      this.pointers = new Map();
      this.fillChoices();
      this.listen();
      new ResizeObserver(() => this.resize()).observe(part("stage"));
      this.resize();
    }

    fillChoices() {
      for (const side of ["left", "right", "below"]) {
        const choice = this.part(side);
        if (side === "below") choice.add(new Option("nothing", ""));
        this.about.layers.forEach((layer, place) => {
          if ((side === "below") === ["image", "background"].includes(layer.kind) || side !== "below")
            if (side === "below" || layer.kind !== "background") choice.add(new Option(layer.name, place));
        });
        choice.value = this.shown[side] ?? "";
        choice.onchange = () => {
          this.shown[side] = choice.value === "" ? null : Number(choice.value);
          this.drawLegends();
          this.redraw();
        };
      }
      this.part("below").closest("label").hidden = this.part("below").length < 2;
      this.part("handle").hidden = this.part("right").length < 2;
      this.part("opacity").oninput = () => this.redraw();
      this.part("in").onclick = () => this.zoom(ZOOM_STEP);
      this.part("out").onclick = () => this.zoom(1 / ZOOM_STEP);
      this.part("whole").onclick = () => this.showAll();
      this.drawLegends();
    }

    listen() {
      const { canvas } = this;
      const at = (event) => {
        const box = canvas.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
      };
      canvas.addEventListener("wheel", (event) => {
        // On a page with more than the map, the wheel scrolls the page until the map was chosen.
        if (!this.about.is_alone && !event.ctrlKey && document.activeElement !== canvas) return;
        event.preventDefault();
        this.zoom(ZOOM_STEP ** (-event.deltaY / 200), at(event));
      }, { passive: false });
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        this.pointers.set(event.pointerId, at(event));
      });
      canvas.addEventListener("pointermove", (event) => this.moved(event.pointerId, at(event)));
      for (const end of ["pointerup", "pointercancel"])
        canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
      canvas.addEventListener("pointerleave", () => { this.part("values").textContent = ""; });
      canvas.addEventListener("focus", () => this.keyed());
      canvas.addEventListener("blur", () => this.redraw());
      canvas.addEventListener("keydown", (event) => {
        const [dx, dy] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[
          event.key] || [0, 0];
        if (dx || dy) this.pan(dx * PAN_STEP, dy * PAN_STEP);
        else if (event.key === "+" || event.key === "=") this.zoom(ZOOM_STEP);
        else if (event.key === "-") this.zoom(1 / ZOOM_STEP);
        else if (event.key === "0") this.showAll();
        else return;
        event.preventDefault();
        this.keyed();
      });
      const handle = this.part("handle");
      handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
      handle.addEventListener("pointermove", (event) => {
        if (handle.hasPointerCapture(event.pointerId)) this.setSwipe(at(event)[0] / this.width);
      });
      handle.addEventListener("keydown", (event) => {
        const to = { ArrowLeft: this.swipe - 0.02, ArrowRight: this.swipe + 0.02, Home: 0, End: 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        this.setSwipe(to);
      });
    }

    moved(id, [x, y]) {
      const before = this.pointers.get(id);
      if (before) {
        const others = [...this.pointers].filter(([other]) => other !== id).map(([, place]) => place);
        this.pointers.set(id, [x, y]);
        if (!others.length) this.pan(x - before[0], y - before[1]);
        else {
          const far = ([ax, ay], [bx, by]) => Math.max(Math.hypot(ax - bx, ay - by), 1);
          this.zoom(far([x, y], others[0]) / far(before, others[0]), others[0]);
        }
      }
      this.tell(x, y);
    }

    resize() {
      const box = this.part("stage").getBoundingClientRect();
      if (!box.width || !box.height) return; // hidden
      const first = !this.width;
      this.ratio = window.devicePixelRatio || 1;
      [this.width, this.height] = [box.width, box.height];
      this.canvas.width = Math.round(box.width * this.ratio);
      this.canvas.height = Math.round(box.height * this.ratio);
      if (first || !this.isMoved) this.showAll();
      this.redraw();
    }

    showAll() {
      const [left, top, right, bottom] = this.about.extent;
      this.scale = 0.96 * Math.min(this.width / (right - left), this.height / (bottom - top));
      [this.least, this.most] = [this.scale / 4, Math.max(40 / this.about.pixel, this.scale)];
      [this.x, this.y] = [(left + right) / 2, (top + bottom) / 2];
      this.isMoved = false;
      this.redraw();
    }

    pan(dx, dy) {
      this.isMoved = true;
      const [left, top, right, bottom] = this.about.extent;
      this.x = Math.min(Math.max(this.x - dx / this.scale, left), right);
      this.y = Math.min(Math.max(this.y - dy / this.scale, top), bottom);
      this.redraw();
    }

    zoom(factor, [x, y] = [this.width / 2, this.height / 2]) {
      this.isMoved = true;
      const [groundX, groundY] = this.ground(x, y);
      this.scale = Math.min(Math.max(this.scale * factor, this.least), this.most);
      this.x = groundX - (x - this.width / 2) / this.scale;
      this.y = groundY - (y - this.height / 2) / this.scale;
      this.redraw();
    }

    setSwipe(share) {
      this.swipe = Math.min(Math.max(share, 0), 1);
      this.redraw();
    }

    ground(x, y) {
      return [this.x + (x - this.width / 2) / this.scale, this.y + (y - this.height / 2) / this.scale];
    }

    redraw() {
      if (this.waiting || !this.width) return;
      this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.draw(); });
    }

    draw() {
      const context = this.canvas.getContext("2d");
      const { width, height } = this.canvas;
      const toScreen = ([left, top, right, bottom]) => [
        Math.round(((left - this.x) * this.scale + this.width / 2) * this.ratio),
        Math.round(((top - this.y) * this.scale + this.height / 2) * this.ratio),
        Math.round(((right - this.x) * this.scale + this.width / 2) * this.ratio),
        Math.round(((bottom - this.y) * this.scale + this.height / 2) * this.ratio)];
      const seen = [...this.ground(0, 0), ...this.ground(this.width, this.height)];
      const metres = 1 / (this.scale * this.ratio);
      const show = (side, from, to, opacity) => {
        const layer = this.layers[this.shown[side]];
        if (!layer || to <= from) return;
        context.save();
        context.beginPath();
        context.rect(from, 0, to - from, height);
        context.clip();
        context.globalAlpha = opacity;
        layer.draw(context, toScreen, seen, metres);
        context.restore();
      };
      context.clearRect(0, 0, width, height);
      const opacity = this.part("opacity").value / 100;
      const cut = this.part("handle").hidden ? width : Math.round(this.swipe * width);
      show("below", 0, width, 1);
      show("left", 0, cut, opacity);
      show("right", cut, width, opacity);
      if (this.canvas.matches(":focus-visible")) this.drawCross(context, width / 2, height / 2);
      const handle = this.part("handle");
      handle.style.left = `${this.swipe * 100}%`;
      handle.setAttribute("aria-valuenow", Math.round(this.swipe * 100));
      this.drawBar();
    }

    /* Where the values are from while the map is moved by keys. */
    drawCross(context, x, y) {
      for (const [colour, wide] of [["#fff", 3], ["#000", 1]]) {
        context.strokeStyle = colour;
        context.lineWidth = wide * this.ratio;
        context.beginPath();
        context.moveTo(x - 9, y);
        context.lineTo(x + 9, y);
        context.moveTo(x, y - 9);
        context.lineTo(x, y + 9);
        context.stroke();
      }
    }

    drawBar() {
      const metres = round125(LONGEST_BAR / this.scale);
      const bar = this.part("bar");
      bar.style.width = `${metres * this.scale}px`;
      bar.textContent = metres >= 1000 ? `${metres / 1000} km` : `${Number(metres.toPrecision(1))} m`;
    }

    drawLegends() {
      const legends = this.part("legends");
      legends.replaceChildren();
      const places = new Set([this.shown.left, this.part("handle").hidden ? null : this.shown.right]);
      for (const place of places) {
        const layer = this.about.layers[place];
        if (!layer || !layer.scale) continue;
        const box = legends.appendChild(document.createElement("div"));
        box.className = "legend";
        box.append(Object.assign(document.createElement("b"), { textContent: layer.title }));
        if (layer.scale.edges.length || layer.scale.numbers) {
          layer.names.forEach((name, number) => box.append(patch(layer.scale.colours[number], name)));
        } else {
          const ramp = box.appendChild(document.createElement("span"));
          ramp.className = "ramp";
          const colours = layer.scale.colours.filter((_, number) => number % 5 === 0);
          ramp.style.background = `linear-gradient(to right, ${colours.map((c) => `rgb(${c})`)})`;
          const ticks = box.appendChild(document.createElement("span"));
          ticks.className = "ticks";
          for (const text of layer.ticks)
            ticks.append(Object.assign(document.createElement("span"), { textContent: text }));
        }
      }
      if (legends.children.length) legends.append(patch(null, "no value"));
    }

    keyed() {
      this.redraw();
      this.tell(this.width / 2, this.height / 2);
    }

    /* Say what is at a place on the screen. */
    tell(x, y) {
      const [groundX, groundY] = this.ground(x, y);
      const [a, b, c, d, e, f] = this.about.to_crs;
      const inCrs = [a * groundX + b * groundY + c, d * groundX + e * groundY + f];
      if (this.about.values) this.ask(groundX, groundY, inCrs);
      else {
        const texts = this.layers.map((layer) => layer.text && layer.text(groundX, groundY));
        this.say(inCrs, texts);
      }
    }

    /* One question at a time; of those that come meanwhile only the last is asked. */
    async ask(x, y, inCrs) {
      this.next = [x, y, inCrs];
      if (this.isAsking) return;
      this.isAsking = true;
      while (this.next) {
        const [nextX, nextY, place] = this.next;
        this.next = null;
        try {
          const answer = await fetch(`${this.about.values}?x=${nextX}&y=${nextY}`);
          if (!answer.ok) continue;
          const said = await answer.json();
          this.say(said.place || place, said.texts);
        } catch { // the server has been stopped
          this.part("values").textContent = "the server does not answer; is treeline view still running?";
        }
      }
      this.isAsking = false;
    }

    say([x, y], texts) {
      const said = this.part("values");
      said.replaceChildren();
      const add = (name, text) => {
        const pair = said.appendChild(document.createElement("span"));
        pair.append(Object.assign(document.createElement("b"), { textContent: name }), ` ${text}`);
      };
      texts.forEach((text, place) => { if (text) add(this.about.layers[place].name, text); });
      add(this.about.crs, `${x.toFixed(this.about.decimals)}, ${y.toFixed(this.about.decimals)}`);
    }
  }

  function patch(colour, name) {
    const entry = document.createElement("span");
    entry.className = "entry";
    const square = entry.appendChild(document.createElement("i"));
    if (colour) square.style.background = `rgb(${colour})`;
    entry.append(name);
    return entry;
  }

  function begin() {
    for (const root of document.querySelectorAll(".treeline-map"))
      if (!root.view) root.view = new MapView(root);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
