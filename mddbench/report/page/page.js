
(() => {
  "use strict";

  const STEP = 48; // tiles that a gallery shows at first, and with each press of its button
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const element = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

  // Tables: a button in each head; a column begins with its highest number, a label with A; the third press restores.

  const compareText = new Intl.Collator("en", { numeric: true }).compare;

  function compareCells(one, other, column, kind, direction) {
    const [a, b] = [one.cells[column], other.cells[column]];
    if (kind === "text") return direction * compareText(a.textContent.trim(), b.textContent.trim());
    const [x, y] = [a.dataset.value, b.dataset.value];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // dashes come last either way
    return direction * (Number(x) - Number(y));
  }

  function makeSortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = all("thead th[data-kind]", table);
    for (const head of heads) {
      const { kind } = head.dataset;
      const steps = kind === "number" ? ["descending", "ascending"] : ["ascending", "descending"];
      const button = element("button", { type: "button", className: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = steps[steps.indexOf(head.getAttribute("aria-sort")) + 1];
        for (const each of heads) each.removeAttribute("aria-sort");
        if (!next) return body.append(...original);
        head.setAttribute("aria-sort", next);
        const direction = next === "ascending" ? 1 : -1;
        body.append(...[...original].sort((a, b) => compareCells(a, b, head.cellIndex, kind, direction)));
      });
    }
  }

  // A table that is wider than the page gets smaller letters; on a small screen one that is still wider becomes one block
  // for each row.

  const small = window.matchMedia("(max-width: 40rem)");
  const fitting = new ResizeObserver((entries) => entries.forEach(({ target }) => fit(target)));

  function fit(frame) {
    if (frame.dataset.width === String(frame.clientWidth)) return;
    frame.dataset.width = frame.clientWidth;
    frame.classList.remove("dense", "stacked");
    const isTooWide = () => frame.scrollWidth > frame.clientWidth + 1;
    if (isTooWide()) frame.classList.add("dense");
    if (small.matches && isTooWide()) frame.classList.replace("dense", "stacked");
  }

  function makeFitting(table) {
    const heads = all("thead th", table).map((head) => head.textContent.trim());
    for (const cell of all("td:not(.provenance)", table)) cell.dataset.head = heads[cell.cellIndex];
    fitting.observe(table.parentElement);
  }

  // Viewer: one dialog for all galleries; it goes through the tiles that its gallery shows.

  const viewer = document.querySelector(".viewer");
  let tiles = [];
  let current = 0;

  function plate(caption, pictures) {
    const frame = element("span", { className: "frame" });
    for (const picture of pictures) {
      const copy = picture.cloneNode();
      copy.loading = "eager";
      frame.append(copy);
    }
    const figure = element("figure");
    figure.append(frame, element("figcaption", { textContent: caption }));
    return figure;
  }

  function show(index) {
    current = (index + tiles.length) % tiles.length;
    const tile = tiles[current];
    const image = all(".image img", tile);
    const plates = [plate("image", image.slice(0, 1)), plate("anomaly map", all(".heat img", tile))];
    if (image.length > 1) plates.splice(1, 0, plate("ground truth", image));
    viewer.querySelector("h2").textContent = tile.querySelector(".what").textContent;
    viewer.querySelector(".how").replaceChildren(...tile.querySelector(".how").cloneNode(true).childNodes);
    viewer.querySelector(".plates").replaceChildren(...plates);
    viewer.querySelector(".place").textContent = `${current + 1} of ${tiles.length}`;
  }

  function open(tile, among) {
    tiles = among;
    show(among.indexOf(tile));
    viewer.showModal();
  }

  if (viewer) {
    viewer.querySelector(".previous").addEventListener("click", () => show(current - 1));
    viewer.querySelector(".next").addEventListener("click", () => show(current + 1));
    viewer.querySelector(".close").addEventListener("click", () => viewer.close());
    viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
    viewer.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show(current + step);
    });
    viewer.addEventListener("close", () => tiles[current].querySelector("button").focus());
  }

  // Galleries: filters, so many tiles at a time, and a button on each tile.

  function makeGallery(gallery) {
    const known = all(".tile", gallery);
    const selects = all("select", gallery);
    const status = gallery.querySelector(".count");
    const more = gallery.querySelector(".more");
    let limit = STEP;

    const wanted = (item) => selects.every(({ name, value }) => !value || !(name in item.dataset) || item.dataset[name] === value);
    const visible = () => known.filter((tile) => !tile.hidden);

    function apply() {
      const matching = known.filter(wanted);
      const shown = new Set(matching.slice(0, limit));
      for (const tile of known) tile.hidden = !shown.has(tile);
      for (const scale of all(".scales li", gallery)) scale.hidden = !wanted(scale);
      const rest = matching.length - shown.size;
      more.hidden = rest === 0;
      more.textContent = `Show ${Math.min(STEP, rest)} more`;
      const first = rest ? `, the first ${shown.size} shown` : "";
      status.textContent = `${matching.length} of ${known.length} pictures${first}, worst cases first`;
    }

    for (const tile of known) {
      const pictures = tile.querySelector(".pictures");
      const button = element("button", { type: "button", className: "pictures" });
      button.append(...pictures.childNodes);
      button.setAttribute("aria-label", `Enlarge ${tile.querySelector(".what").textContent}, ${tile.dataset.method}, ${tile.dataset.role}`);
      button.addEventListener("click", () => open(tile, visible()));
      pictures.replaceWith(button);
    }
    for (const select of selects) {
      select.addEventListener("change", () => {
        limit = STEP;
        apply();
      });
    }
    more.addEventListener("click", () => {
      const before = visible().length;
      limit += STEP;
      apply();
      visible()[before].querySelector("button").focus();
    });
    for (const fieldset of all(".filters", gallery)) fieldset.hidden = false;
    apply();
  }

  all(".table table").forEach(makeFitting);
  all(".table table").forEach(makeSortable);
  all(".gallery").forEach(makeGallery);

  // A link to something that is folded unfolds it.

  function unfold() {
    const target = document.getElementById(decodeURIComponent(window.location.hash.slice(1)));
    if (!target?.matches("details")) return;
    target.open = true;
    target.scrollIntoView();
  }

  window.addEventListener("hashchange", unfold);
  unfold();

  // On paper everything is open.

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const each of closed) each.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const each of closed) each.open = false;
  });
})();
