/* Which part of the ground is on the screen: arithmetic alone. Sides and places on the screen are CSS pixels. */
class Frame {
  /* extent: left, top, right, bottom of what there is, on the ground. pixel: side of the finest map's pixel. */
  constructor(extent, pixel) {
    Object.assign(this, { extent, pixel, width: 0, height: 0, ratio: 1, isMoved: false });
  }

  resize(width, height, ratio) {
    const first = !this.width;
    Object.assign(this, { width, height, ratio });
    if (first || !this.isMoved) this.showAll();
  }

  showAll() {
    const [left, top, right, bottom] = this.extent;
    this.scale = 0.96 * Math.min(this.width / (right - left), this.height / (bottom - top));
    [this.least, this.most] = [this.scale / 4, Math.max(40 / this.pixel, this.scale)];
    [this.x, this.y] = [(left + right) / 2, (top + bottom) / 2];
    this.isMoved = false;
  }

  pan(dx, dy) {
    this.isMoved = true;
    const [left, top, right, bottom] = this.extent;
    this.x = Math.min(Math.max(this.x - dx / this.scale, left), right);
    this.y = Math.min(Math.max(this.y - dy / this.scale, top), bottom);
  }

  zoom(factor, [x, y] = [this.width / 2, this.height / 2]) {
    this.isMoved = true;
    const [groundX, groundY] = this.ground(x, y);
    this.scale = Math.min(Math.max(this.scale * factor, this.least), this.most);
    this.x = groundX - (x - this.width / 2) / this.scale;
    this.y = groundY - (y - this.height / 2) / this.scale;
  }

  ground(x, y) {
    return [this.x + (x - this.width / 2) / this.scale, this.y + (y - this.height / 2) / this.scale];
  }

  get seen() {
    return [...this.ground(0, 0), ...this.ground(this.width, this.height)];
  }

  /* Side of one pixel of the device on the ground. */
  get metres() {
    return 1 / (this.scale * this.ratio);
  }

  /* Rectangle on the ground in pixels of the device. */
  toScreen([left, top, right, bottom]) {
    const across = (x) => Math.round(((x - this.x) * this.scale + this.width / 2) * this.ratio);
    const down = (y) => Math.round(((y - this.y) * this.scale + this.height / 2) * this.ratio);
    return [across(left), down(top), across(right), down(bottom)];
  }
}
