// What came back: one card for each image, and the same as text to copy. Nothing here asks the server.
"use strict";

const HUES = [158, 40, 210, 330, 90, 270, 15, 185, 60, 300];

export function node(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// `view`: {own: whether each tag has its own threshold, threshold: else that of all, most: tags of an image}.
export function limitOf(tag, view) { return view.own ? tag.threshold : view.threshold; }

export function split(item, view) {
  const over = [], below = [];
  for (const tag of item.result.tags)
    (tag.score >= limitOf(tag, view) && over.length < view.most ? over : below).push(tag);
  return { over, below };
}

function colour(index) { return `hsl(${HUES[index % HUES.length]} 75% 62%)`; }

function row(item, tag, index, view, isOver) {
  const limit = limitOf(tag, view), element = node("li", isOver ? "" : "below");
  const bar = node("span", "bar"), mark = node("span", "mark");
  bar.style.width = `calc(${tag.score} * var(--scale))`;
  mark.style.left = `calc(${Math.min(limit, 1)} * var(--scale) - 2px)`;
  bar.ariaHidden = mark.ariaHidden = "true";
  const box = isOver && tag.box && item.boxes.get(tag), line = node(box ? "button" : "div", "row"), name = node("span", "name");
  if (box) {
    const key = node("i");
    key.style.setProperty("--colour", colour(index));
    name.append(key);
  }
  name.append(tag.tag);
  const score = node("span", "score", tag.score.toFixed(2));
  score.append(node("span", "sr", tag.score < limit ? `, below ${limit.toFixed(2)}` : ""));
  line.append(name, score);
  line.title = `threshold ${limit.toFixed(2)}`;
  if (box) {
    line.type = "button";
    line.setAttribute("aria-pressed", String(item.pinned === tag.tag));
    line.setAttribute("aria-label", `${tag.tag} ${tag.score.toFixed(2)}, show its box alone`);
    const show = on => highlight(item, on ? tag : null);
    for (const event of ["mouseenter", "focus"]) line.addEventListener(event, () => show(true));
    for (const event of ["mouseleave", "blur"]) line.addEventListener(event, () => show(false));
    line.addEventListener("click", () => {
      item.pinned = item.pinned === tag.tag ? null : tag.tag;
      for (const each of item.card.querySelectorAll(".row[aria-pressed]"))
        each.setAttribute("aria-pressed", String(each === line && item.pinned !== null));
      show(false);
    });
  }
  element.append(bar, mark, line);
  return element;
}

function highlight(item, tag) {
  let any = false;
  for (const [each, box] of item.boxes) {
    const on = tag ? each === tag : each.tag === item.pinned;
    box.classList.toggle("on", on);
    any ||= on;
  }
  item.frame.classList.toggle("one", any);
}

function drawBoxes(item, over) {
  for (const box of item.boxes.values()) box.remove();
  item.boxes = new Map();
  over.forEach((tag, index) => {
    if (!tag.box || !item.hasPreview) return;
    const [x0, y0, x1, y1] = tag.box, box = node("div", x0 > .7 ? "box right" : "box");
    Object.assign(box.style, { left: `${100 * x0}%`, top: `${100 * y0}%`,
                               width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });
    box.style.setProperty("--colour", colour(index));
    box.append(node("b", "", tag.tag));
    box.ariaHidden = "true";  // its row in the list says the same
    item.boxes.set(tag, box);
    item.frame.append(box);
  });
  // Names of boxes that begin at the same corner would cover each other.
  const names = [];
  for (const box of item.boxes.values()) {
    const name = box.firstChild;
    let shift = 0, area = name.getBoundingClientRect();
    const hits = () => names.some(other => area.left < other.right && other.left < area.right &&
                                           area.top + shift < other.bottom && other.top < area.bottom + shift);
    while (hits() && shift < 300) shift += 4;
    if (shift) name.style.top = `${shift}px`;
    names.push({ left: area.left, right: area.right, top: area.top + shift, bottom: area.bottom + shift });
  }
}

export function makeCard(item) {
  const article = node("article"), figure = node("figure"), caption = node("figcaption");
  item.card = article;
  article.ariaLabel = item.name;
  item.frame = node("div", "frame");
  item.list = node("div", "list");
  item.boxes = new Map();
  item.hasPreview = true;
  const image = node("img");
  image.src = item.url;
  image.alt = "";  // the heading names the file
  image.addEventListener("load", () => item.result && showResult(item, item.view));
  image.addEventListener("error", () => {
    item.hasPreview = false;
    item.frame.replaceChildren(node("p", "", "This browser cannot show the image."));
  });
  item.frame.append(image);
  item.words = node("q");
  item.words.hidden = true;
  caption.append(item.words, node("h2", "", item.name));
  if (item.note) caption.append(node("small", "", item.note));
  item.caption = caption;
  figure.append(item.frame, caption);
  item.list.append(node("p", "soft", "Waiting ..."));
  article.append(figure, item.list);
  return article;
}

export function showNote(item) {
  if (item.note && !item.caption.querySelector("small")) item.caption.append(node("small", "", item.note));
}

export function showError(item, text) {
  item.error = text;
  item.list.replaceChildren(node("p", "error", `Not tagged: ${text}`));
}

export function showResult(item, view) {
  item.view = view;
  if (item.error || !item.result) return;
  const { over, below } = split(item, view);
  item.words.hidden = !item.result.caption;
  item.words.textContent = item.result.caption || "";
  drawBoxes(item, over);
  const list = node("ol"), parts = [];
  list.role = "list";  // Safari forgets what a list without marks is
  over.forEach((tag, index) => list.append(row(item, tag, index, view, true)));
  if (item.ownTags) for (const tag of below) list.append(row(item, tag, 0, view, false));
  if (list.children.length) parts.push(list);
  else parts.push(node("p", "soft", "No tag is over its threshold."));
  if (below.length && !item.ownTags) {
    const details = node("details"), more = node("ol");
    details.open = item.open || false;
    details.append(node("summary", "", `${below.length} more, ${over.length < view.most ? "below the threshold" : "not shown"}`));
    const fill = () => { if (details.open && !more.children.length) below.forEach(tag => more.append(row(item, tag, 0, view, false))); };
    details.addEventListener("toggle", () => { item.open = details.open; fill(); });
    details.append(more);
    fill();
    parts.push(details);
  }
  item.list.replaceChildren(...parts);
  highlight(item, null);
}

export function asJson(items, view) {
  return JSON.stringify(items.filter(item => item.result || item.error).map(item => item.error
    ? { file: item.name, error: item.error }
    : { file: item.name, caption: item.result.caption, tags: shown(item, view) }), null, 1);
}

export function asCsv(items, view) {
  const lines = [["file", "tag", "score", "threshold", "x0", "y0", "x1", "y1", "error"]];
  for (const item of items) {
    if (item.error) lines.push([item.name, "", "", "", "", "", "", "", item.error]);
    else if (item.result)
      for (const tag of shown(item, view))
        lines.push([item.name, tag.tag, tag.score, tag.threshold, ...(tag.box || ["", "", "", ""]), ""]);
  }
  return lines.map(line => line.map(quote).join(",")).join("\r\n") + "\r\n";
}

function shown(item, view) {
  const { over, below } = split(item, view);
  return (item.ownTags ? [...over, ...below] : over).map(tag => ({ ...tag, threshold: limitOf(tag, view) }));
}

function quote(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
