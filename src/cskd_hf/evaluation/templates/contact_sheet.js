"use strict";
const photographs = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const tiles = find("tiles"), viewer = find("viewer");
const members = new Map();
for (const one of photographs) if (one.group) members.set(one.group, [...(members.get(one.group) || []), one]);
let shown = [], current = null;

const image = (one) => "data:image/jpeg;base64," + one.thumbnail;
function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
function stars(one) {
  const made = element("span", "starred", "\u2605".repeat(one.stars));
  made.append(element("i", "", "\u2606".repeat(5 - one.stars)));
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", one.stars + " of 5 stars");
  return made;
}
function badge(one) {
  if (!one.group) return "";
  return (one.choice === "best" ? "best of " : "one of ") + one.group_size + " alike";
}

// A picture is decoded when its tile comes near the window, and given back when it is far away.
const nearby = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const picture = entry.target.querySelector("img");
    if (entry.isIntersecting) picture.src = image(entry.target.photograph);
    else picture.removeAttribute("src");
  }
}, { rootMargin: "600px" });

function tile(one) {
  const made = element("button", "tile " + one.choice);
  made.type = "button";
  made.photograph = one;
  const frame = element("span", "frame"), picture = element("img");
  picture.alt = "";
  frame.append(picture);
  const line = element("span", "line");
  line.append(stars(one), element("span", "", one.score.toFixed(2)));
  const file = element("span", "file", one.name);
  file.title = one.path;
  made.append(frame, line, file, element("span", "badge " + one.choice, badge(one)));
  made.addEventListener("click", () => open(one));
  return made;
}
for (const one of photographs) one.tile = tile(one);

const byScore = (a, b) => b.score - a.score || a.number - b.number;
const orders = {
  best: byScore,
  worst: (a, b) => byScore(b, a),
  name: (a, b) => a.number - b.number,
  groups: (a, b) => (a.group || Infinity) - (b.group || Infinity) || byScore(a, b),
};
const kinds = {
  all: () => true,
  picks: (one) => one.choice !== "other",
  groups: (one) => one.group > 0,
  others: (one) => one.choice === "other",
};

function show() {
  const order = find("sort").value, kind = kinds[find("show").value];
  const least = Number(find("stars").value), part = find("name").value.toLowerCase();
  shown = photographs.filter((one) => kind(one) && one.stars >= least && one.path.toLowerCase().includes(part));
  shown.sort(orders[order]);
  nearby.disconnect();
  const all = [];
  let group = null;
  for (const one of shown) {
    if (order === "groups" && one.group !== group) {
      group = one.group;
      const heading = group ? "Group " + group + ": " + one.group_size + " alike" : "Not in a group";
      all.push(element("h2", "", heading));
    }
    all.push(one.tile);
  }
  tiles.replaceChildren(...all);
  for (const one of shown) nearby.observe(one.tile);
  find("nothing").hidden = shown.length > 0;
  find("count").textContent = shown.length + " of " + photographs.length + " photographs";
}

function open(one) {
  current = one;
  find("viewer-name").textContent = one.name;
  find("viewer-image").src = image(one);
  find("viewer-image").alt = one.name;
  const facts = find("viewer-facts");
  facts.replaceChildren();
  const fact = (name, value) => {
    const cell = element("dd");
    cell.append(value);
    facts.append(element("dt", "", name), cell);
  };
  fact("stars", stars(one));
  fact("score", one.score.toFixed(3) + " \u00b1 " + one.score_std.toFixed(2));
  fact("better than", one.percentile.toFixed(1) + " %");
  if (one.width) fact("pixels", one.width + " \u00d7 " + one.height);
  if (one.group) fact("group", badge(one));
  for (const [name, value] of Object.entries(one.attributes || {})) fact(name, value.toFixed(2));
  fact("file", one.path);
  const link = find("viewer-link");
  link.hidden = !one.link;
  if (one.link) link.href = one.link;
  const strip = find("viewer-group");
  strip.replaceChildren();
  for (const other of (members.get(one.group) || []).slice().sort(byScore)) {
    const button = element("button"), picture = element("img");
    button.type = "button";
    picture.src = image(other);
    picture.alt = other.name;
    button.append(picture, other.score.toFixed(2));
    button.setAttribute("aria-current", String(other === one));
    button.addEventListener("click", () => open(other));
    strip.append(button);
  }
  if (!viewer.open) viewer.showModal();
}
function turn(step) {
  const at = shown.indexOf(current);
  const next = at < 0 ? shown[0] : shown[at + step];
  if (next) open(next);
}
function closeViewer() {
  viewer.close();
}

find("previous").addEventListener("click", () => turn(-1));
find("next").addEventListener("click", () => turn(1));
find("close").addEventListener("click", closeViewer);
viewer.addEventListener("close", () => {
  if (current && current.tile.isConnected) current.tile.focus();
});
viewer.addEventListener("click", (event) => {
  if (event.target === viewer) closeViewer();
});
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") turn(-1);
  else if (event.key === "ArrowRight") turn(1);
  else return;
  event.preventDefault();
});

// The arrows walk over the grid as it looks.
tiles.addEventListener("keydown", (event) => {
  const at = shown.findIndex((one) => one.tile === document.activeElement);
  if (at < 0) return;
  let to = null;
  if (event.key === "ArrowRight") to = shown[at + 1];
  else if (event.key === "ArrowLeft") to = shown[at - 1];
  else if (event.key === "Home") to = shown[0];
  else if (event.key === "End") to = shown[shown.length - 1];
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const step = event.key === "ArrowDown" ? 1 : -1, here = shown[at].tile;
    let row = null;
    for (let i = at + step; i >= 0 && i < shown.length; i += step) {
      const there = shown[i].tile;
      if ((there.offsetTop - here.offsetTop) * step <= 0) continue;
      if (row === null) row = there.offsetTop;
      if (there.offsetTop !== row) break;
      to = shown[i];
      if ((here.offsetLeft - there.offsetLeft) * step <= 0) break;
    }
  } else return;
  event.preventDefault();
  if (to) to.tile.focus();
});

find("tools").addEventListener("input", show);
find("tools").addEventListener("submit", (event) => event.preventDefault());
show();
