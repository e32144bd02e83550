'use strict';
// What the contact sheet and the comparison have in common: tiles by 200, sorted and filtered, decided by keys. The script
// after it says what a tile is, and calls begin(). An entry is an array that begins with an item's name. Every text is set
// as text, never as HTML.
const data = JSON.parse(document.getElementById('data').textContent);
const PAGE = 200;
const MOST_UNDONE = 100;
const KEY = ['mediround.review', data.job, data.run_key].filter((each) => each).join('.');
const byId = (name) => document.getElementById(name);
let page, order = [], first = 0, selected = 0, undone = [];
let verdicts = {}, stored = true;

function element(tag, words, kind) {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  if (kind) made.className = kind;
  return made;
}

// Another page of this run may have decided since.
function read() {
  if (!stored) return;
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    verdicts = found && typeof found === 'object' && !Array.isArray(found) ? found : {};
  } catch { verdicts = {}; }
}

const of = (name) => verdicts[name] || {verdict: '', comment: ''};
const verdictOf = (entry) => of(entry[0]).verdict;
const DECIDED = {
  accepted: (entry) => verdictOf(entry) === 'accept',
  rejected: (entry) => verdictOf(entry) === 'reject',
  undecided: (entry) => !verdictOf(entry),
  commented: (entry) => of(entry[0]).comment !== '',
};
const numbered = (name) => (byId(name) && byId(name).value !== '' ? Number(byId(name).value) : null);
const structureChosen = () => (byId('structure').value === '' ? null : Number(byId('structure').value));
const nullsLast = (value) => (value === null ? Infinity : value);
const ascending = (value) => (a, b) => nullsLast(value(a)) - nullsLast(value(b)) || 0;  // Infinity - Infinity is NaN

function choose() {
  read();
  const status = page.statuses[byId('status').value], sort = page.sorts[byId('sort').value];
  order = page.entries.filter((entry) => status(entry) && page.passes(entry)).sort(sort);  // stable
  first = selected = 0;
  show();
}

function show() {
  const last = Math.min(first + PAGE, order.length);
  byId('count').textContent = order.length ? `${first + 1} to ${last} of ${order.length}` : 'none';
  byId('sheet').replaceChildren(...order.slice(first, last).map(framed));
  mark();
}

function framed(entry, at) {
  const made = element('div', undefined, 'tile');
  made.addEventListener('click', () => { selected = first + at; mark(); });
  made.append(...page.tile(entry), element('div', '', 'comment'));
  return made;
}

function pictured(source) {
  if (!source) return element('div', 'no picture', 'note');
  const picture = element('img');
  picture.loading = 'lazy';
  picture.src = source;
  return picture;
}

function linked(name, number) {
  const made = element('a', 'details');
  made.href = `page-${String(number).padStart(4, '0')}.html#i${name}`;
  return made;
}

function mark() {
  [...byId('sheet').children].forEach((made, at) => {
    const kept = of(order[first + at][0]);
    made.className = `tile ${kept.verdict} ${first + at === selected ? 'selected' : ''}`;
    made.querySelector('.comment').textContent = kept.comment;
  });
  const chosen = byId('sheet').children[selected - first];
  if (chosen) chosen.scrollIntoView({block: 'nearest'});
}

function change(name, verdict, comment) {
  read();
  undone = [...undone, [name, of(name)]].slice(-MOST_UNDONE);
  put(name, {verdict, comment});
}

function put(name, kept) {
  if (kept.verdict || kept.comment) verdicts[name] = kept;
  else delete verdicts[name];
  try { localStorage.setItem(KEY, JSON.stringify(verdicts)); stored = true; } catch { stored = false; }
  byId('kept').textContent = stored ? '' : 'not kept by this browser: export before you leave';
  mark();
}

function decide(verdict) {
  const entry = order[selected];
  if (!entry) return;
  read();
  const kept = of(entry[0]);
  change(entry[0], kept.verdict === verdict ? '' : verdict, kept.comment);
}

function undo() {
  const last = undone.pop();
  if (!last) return;
  read();
  put(...last);
  const at = order.findIndex((entry) => entry[0] === last[0]);
  if (at >= 0) move(at - selected);
}

function comment() {
  const entry = order[selected];
  if (!entry) return;
  read();
  byId('words').value = of(entry[0]).comment;
  byId('dialog').showModal();
}

function commented() {
  const name = order[selected][0];
  read();
  change(name, of(name).verdict, byId('words').value.slice(0, 2000).trim());
}

function review() {
  read();
  const items = Object.keys(verdicts).map((name) => ({item_id: name, ...of(name)}));
  return JSON.stringify({format: 1, job: data.job, run_key: data.run_key, items}, null, 1);
}

function save() {
  const link = element('a');
  link.href = URL.createObjectURL(new Blob([review()], {type: 'application/json'}));
  link.download = 'review.json';
  link.click();
  URL.revokeObjectURL(link.href);
}

function move(steps) {
  selected = Math.max(0, Math.min(order.length - 1, selected + steps));
  const begin = Math.floor(selected / PAGE) * PAGE;
  if (begin !== first) { first = begin; show(); } else mark();
}

const columns = () => getComputedStyle(byId('sheet')).gridTemplateColumns.split(' ').length;
const KEYS = {
  ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => move(columns()),
  ArrowUp: () => move(-columns()), PageDown: () => move(PAGE), PageUp: () => move(-PAGE),
  a: () => decide('accept'), r: () => decide('reject'), c: comment, u: undo,
};
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId('dialog').open || !KEYS[event.key]) return;
  if (event.target.matches('select, input')) return;
  event.preventDefault();
  KEYS[event.key]();
});

function options(select, pairs) {
  pairs.forEach(([value, words]) => {
    const made = element('option', words);
    made.value = value;
    byId(select).append(made);
  });
  byId(select).addEventListener('change', () => { byId(select).blur(); choose(); });
}

// entries; sorts, statuses: by name; passes(entry): the page's other filters; tile(entry): elements.
function begin(made) {
  page = {...made, statuses: {...made.statuses, ...DECIDED}};
  options('sort', Object.keys(page.sorts).map((name) => [name, name]));
  options('structure', [['', 'all structures'], ...data.structures.map((name, at) => [at, name])]);
  options('status', Object.keys(page.statuses).map((name) => [name, name]));
  document.querySelectorAll('header input').forEach((input) => input.addEventListener('change', choose));
  byId('before').addEventListener('click', () => move(-PAGE));
  byId('after').addEventListener('click', () => move(PAGE));
  byId('export').addEventListener('click', save);
  // Before the dialog closes: once it has, another key may choose another item.
  byId('dialog').addEventListener('submit', (event) => { if (event.submitter.value === 'keep') commented(); });
  window.addEventListener('storage', () => { read(); mark(); });
  choose();
}
