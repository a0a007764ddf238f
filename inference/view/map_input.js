/* Pointers, wheel and keys: they move a view's frame and its swipe. */
const PAN_STEP = 60;
const ZOOM_STEP = 1.5;

function listen(view) {
  const at = (event) => {
    const box = view.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  listenToButtons(view);
  listenToPointers(view, at);
  listenToKeys(view);
  listenToHandle(view, at);
}

function listenToButtons(view) {
  view.part("in").onclick = () => view.move((frame) => frame.zoom(ZOOM_STEP));
  view.part("out").onclick = () => view.move((frame) => frame.zoom(1 / ZOOM_STEP));
  view.part("whole").onclick = () => view.move((frame) => frame.showAll());
}

function listenToPointers(view, at) {
  const { canvas } = view;
  const pointers = new Map();
  canvas.addEventListener("wheel", (event) => {
    // On a page with more than the map, the wheel scrolls the page until the map was chosen.
    if (!view.about.is_alone && !event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    view.move((frame) => frame.zoom(ZOOM_STEP ** (-event.deltaY / 200), at(event)));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const to = at(event);
    drag(view, pointers, event.pointerId, to);
    view.tell(...to);
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => view.values.clear());
}

/* One pointer that is down pans, two zoom. */
function drag(view, pointers, id, to) {
  const before = pointers.get(id);
  if (!before) return;
  pointers.set(id, to);
  const other = [...pointers.keys()].find((one) => one !== id);
  if (other === undefined) {
    view.move((frame) => frame.pan(to[0] - before[0], to[1] - before[1]));
    return;
  }
  const still = pointers.get(other);
  const far = ([x, y]) => Math.max(Math.hypot(x - still[0], y - still[1]), 1);
  view.move((frame) => frame.zoom(far(to) / far(before), still));
}

function listenToKeys(view) {
  const { canvas } = view;
  const keyed = () => {
    view.redraw();
    view.tell(view.frame.width / 2, view.frame.height / 2);
  };
  const moves = {
    ArrowLeft: (frame) => frame.pan(PAN_STEP, 0),
    ArrowRight: (frame) => frame.pan(-PAN_STEP, 0),
    ArrowUp: (frame) => frame.pan(0, PAN_STEP),
    ArrowDown: (frame) => frame.pan(0, -PAN_STEP),
    "+": (frame) => frame.zoom(ZOOM_STEP),
    "=": (frame) => frame.zoom(ZOOM_STEP),
    "-": (frame) => frame.zoom(1 / ZOOM_STEP),
    0: (frame) => frame.showAll(),
  };
  canvas.addEventListener("focus", keyed);
  canvas.addEventListener("blur", () => view.redraw());
  canvas.addEventListener("keydown", (event) => {
    if (!Object.hasOwn(moves, event.key)) return;
    view.move(moves[event.key]);
    event.preventDefault();
    keyed();
  });
}

function listenToHandle(view, at) {
  const handle = view.part("handle");
  handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", (event) => {
    if (handle.hasPointerCapture(event.pointerId)) view.setSwipe(at(event)[0] / view.frame.width);
  });
  handle.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: view.swipe - 0.02, ArrowRight: view.swipe + 0.02, Home: 0, End: 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    view.setSwipe(to);
  });
}
