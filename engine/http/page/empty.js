// How a newcomer brings games in: commands to copy, with the addresses of this deployment.

import { $, make } from "./dom.js";

const GAME = '{"game_id":1,"crash_point":2.41,"end_time":1767225600000}';
let shown = "";

/** Show three ways to bring games in. `deployment` may name the topic and the brokers. */
export function showWays(deployment, api, engine) {
  const { topic } = deployment;
  const brokers = deployment.bootstrap_servers ?? "BROKER:9092"; // It is not told to anybody.
  const stream = api.stream || deployment.stream || "crash";
  const flags = `--kafka.bootstrap_servers ${brokers} --kafka.topic ${topic}`;
  const ways = [
    ["A file of history: CSV, JSON lines or Parquet, as it is", `crashfold publish history.csv ${flags}`],
    ["A pipe, from whatever you have", `echo '${GAME}' | crashfold publish - --format jsonl ${flags}`],
    ["Your own producer: one JSON object a record, the stream as its key", `echo '${stream}|${GAME}' | kcat -P -b ${brokers} -t ${topic} -K '|'`],
  ];
  if (engine !== null && engine.engines.length === 0) ways.push(["No engine is heard: start one beside this server", `crashfold run ${flags}`]);
  const text = JSON.stringify(ways);
  if (text === shown) return;
  shown = text;
  $("empty-topic").textContent = topic;
  $("ways").replaceChildren(...ways.map(([what, command]) => {
    const copy = make("button", { type: "button" }, "Copy");
    const code = make("code", { tabindex: "0" }, command);
    copy.addEventListener("click", () => copyText(command, code, copy));
    return make("li", {}, make("p", {}, what), make("div", { class: "command" }, code, copy));
  }));
}

/** The clipboard is there on https and localhost alone; elsewhere the command is selected, ready to be copied by key. */
async function copyText(text, code, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2_000);
}
