// The context while it is written: one field for each document, files opened or dropped.

import { byId, element } from "./dom.js";

const list = byId("documents");

function row(number, title, text) {
  return element(
    "div",
    { class: "document", role: "group", "aria-label": `Document ${number}` },
    element(
      "div",
      { class: "row title-row" },
      element("input", { class: "title", type: "text", placeholder: "Title (optional)", "aria-label": `Title of document ${number}` }),
      element("button", { type: "button", class: "quiet remove", "aria-label": `Remove document ${number}` }, "Remove"),
    ),
    element("textarea", { class: "body", rows: "12", dir: "auto", "aria-label": `Text of document ${number}`, placeholder: "Paste the text that the answer should come from" }),
  );
}

const rows = () => [...list.children];
const values = () =>
  rows().map((made) => ({
    title: made.querySelector(".title").value.trim(),
    text: made.querySelector(".body").value,
  }));

/** Replace all documents; there is always at least one field. */
export function setDocuments(documents) {
  const shown = documents.length ? documents : [{ text: "" }];
  list.replaceChildren(...shown.map((_, place) => row(place + 1)));
  rows().forEach((made, place) => {
    made.querySelector(".title").value = shown[place].title ?? "";
    made.querySelector(".body").value = shown[place].text;
  });
  list.classList.toggle("several", shown.length > 1);
}

/** The documents that have text, as POST /generate takes them. */
export const documents = () =>
  values()
    .filter(({ text }) => text.trim())
    .map(({ title, text }) => (title ? { title, text } : { text }));

export const focusText = () => list.querySelector(".body").focus();

async function addFiles(files, onError) {
  const read = [];
  for (const file of files) {
    const text = new TextDecoder("utf-8", { fatal: true });
    try {
      read.push({ title: file.name, text: text.decode(await file.arrayBuffer()) });
    } catch {
      onError(`${file.name} is not a text in UTF-8. Save it as plain text and open it again.`);
    }
  }
  if (read.length) setDocuments([...values().filter(({ text }) => text.trim()), ...read]);
}

/** Wire up the fields; `onError` gets a sentence. */
export function start(onError) {
  setDocuments([]);
  const editor = byId("editor");
  byId("add").addEventListener("click", () => {
    setDocuments([...values(), { text: "" }]);
    rows().at(-1).querySelector(".body").focus();
  });
  list.addEventListener("click", (event) => {
    const remove = event.target.closest(".remove");
    if (!remove) return;
    const place = rows().indexOf(remove.closest(".document"));
    setDocuments(values().filter((_, other) => other !== place));
    focusText();
  });
  byId("open").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", async (event) => {
    await addFiles([...event.target.files], onError);
    event.target.value = "";
  });
  for (const kind of ["dragenter", "dragover"])
    editor.addEventListener(kind, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      editor.classList.add("drop");
    });
  editor.addEventListener("dragleave", () => editor.classList.remove("drop"));
  editor.addEventListener("drop", (event) => {
    editor.classList.remove("drop");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    addFiles([...event.dataTransfer.files], onError);
  });
}
