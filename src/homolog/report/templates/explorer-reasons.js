// Why a match is no homolog: its tests in order, as reasons.py names them; in a few words, and by how much.
const explorerReasons = (() => {
  "use strict";
  const r = (value) => `r ${explorer.number(value, { digits: 3 })}`;
  const documents = (n) => (n === 1 ? "one document" : `${n} documents`);
  const REASONS = {
    chance: ["no more than chance", (of) => `no more than chance: ${r(of.r)} where ${r(of.threshold)} is needed at its frequency`],
    token: ["follows a token", (of) => `follows a token: ${r(Math.sqrt(of.token_r2))} with that alone, against ${r(of.r)}`],
    untrained: ["an untrained model has it too",
      (of) => `an untrained model has it too, ${r(of.untrained_r)} against ${r(of.r)}`],
    controls: ["controls explain it", (of) => `controls explain it: ${r(of.control_r)} with all of them, against ${r(of.r)}`],
    documents: ["other documents may differ", () => "other documents may turn that around"],
    rare: ["in too few documents", (of) => `both fire together in ${documents(of.documents)} alone`],
    rival: ["has a nearer rival", (of) => `its partner resembles another feature of this model more, ${r(of.rival_r)}`],
  };
  const named = (fails) => fails.split(", ");
  const short = (fails) => named(fails).map((name) => REASONS[name]?.[0] ?? name);
  const sentence = (match) => named(match.fails).map((name) => REASONS[name]?.[1](match) ?? name).join("; ");
  const words = Object.fromEntries(Object.entries(REASONS).map(([name, [few]]) => [name, few]));
  return { short, sentence, words };
})();
