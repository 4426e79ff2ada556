"use strict";
(() => {
  const { scores, ranked } = JSON.parse(document.getElementById("data").textContent);
  const choices = [...document.querySelectorAll("[data-choice]")];
  const list = document.getElementById("ranking");
  const marks = new Map(
    [...document.querySelectorAll("mark")].map((mark) => [Number(mark.id.slice(7)), mark]),
  );
  const FAINTEST = 0.02;

  function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function show(node, share) {
    node.style.setProperty("--share", Math.abs(share) < FAINTEST ? 0 : Math.abs(share).toFixed(3));
    node.classList.toggle("negative", share < 0);
  }

  function entry(rank, index, score, share) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const source = document.createElement("span");
    const mark = marks.get(index);
    const text = element("span", "source", mark ? mark.textContent.trim() : "");
    text.dir = "auto";
    const heading = mark ? mark.closest("article").querySelector("h3").textContent : "";
    source.append(text, element("span", "where", heading));
    button.type = "button";
    button.append(element("span", "rank", rank), element("span", "score", score.toFixed(4)), source);
    button.addEventListener("click", () => {
      if (mark) {
        mark.scrollIntoView({ block: "center" });
        mark.focus({ preventScroll: true });
      }
    });
    show(item, share);
    item.append(button);
    return item;
  }

  function choose(choice) {
    const row = scores[choice];
    const order = row
      .map((_, index) => index)
      .filter((index) => row[index] !== null)
      .sort((a, b) => row[b] - row[a] || a - b);
    const largest = row.reduce((most, score) => Math.max(most, Math.abs(score)), 1e-12);
    for (const node of choices) {
      node.setAttribute("aria-pressed", String(Number(node.dataset.choice) === choice));
    }
    for (const [index, mark] of marks) {
      show(mark, row[index] / largest);
      mark.title = row[index] === null ? "no score" : "score " + row[index].toFixed(4);
      mark.removeAttribute("data-rank");
    }
    list.replaceChildren();
    order.slice(0, ranked).forEach((index, place) => {
      list.append(entry(place + 1, index, row[index], row[index] / largest));
      marks.get(index)?.setAttribute("data-rank", place + 1);
    });
  }

  choices.forEach((node, place) => {
    node.addEventListener("click", () => choose(Number(node.dataset.choice)));
    node.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(Number(node.dataset.choice));
      } else if (step !== undefined) {
        event.preventDefault();
        const next = choices[(place + step + choices.length) % choices.length];
        next.focus();
        choose(Number(next.dataset.choice));
      }
    });
  });
  if (scores.length) {
    choose(choices.length ? Number(choices[0].dataset.choice) : 0);
  }
})();
