// Runs the MQL5 reference: a line of fields separated by tabs in, a line out. `\n` and `\r` in a field are escaped.
#include "terminal.h"
//
#include "CopydeskGuard.h"

#include <functional>
#include <iostream>
#include <map>
#include <memory>

using Words = std::vector<string>;

static string plain(const string &text) {
  string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      char next = text[++i];
      out += next == 'n' ? '\n' : next == 'r' ? '\r' : next;
    } else
      out += text[i];
  }
  return out;
}

static Array<uchar> bytes(const string &text) { return {std::vector<uchar>(text.begin(), text.end())}; }

static CdPacket packet_of(const Words &w, int at) {
  return {w[at], w[at + 1], w[at + 2], w[at + 3], w[at + 4], w[at + 5], w[at + 6], w[at + 7], w[at + 8],
          w[at + 9], w[at + 10], w[at + 11], w[at + 12], w[at + 12]};
}

static std::unique_ptr<CdGuard> guard;

static string book() {
  string out;
  for (const Held &one : held) {
    char line[120];
    snprintf(line, sizeof line, "%lu %.2f %.5f %.5f;", one.magic, one.volume, one.sl, one.tp);
    out += line;
  }
  return out;
}

static string snapshot(const Words &w) {
  Array<CdTarget> targets;
  for (int at = 6; at < 6 + 9 * stoi(w[5]); at += 9)
    targets.items.push_back({w[at], w[at + 1], w[at + 2], stod(w[at + 3]), stod(w[at + 4]), stod(w[at + 5]),
                             stol(w[at + 6]), stol(w[at + 7]), w[at + 8] == "1"});
  return guard->OnSnapshot(w[1], stol(w[2]), stol(w[3]), targets, stol(w[4])) ? "taken" : "not taken";
}

static string late_orders() {
  for (const MqlTradeRequest &one : late) execute(one);
  late.clear();
  return "done";
}

static string flip(bool &what, const string &word) {
  what = word == "1";
  return "done";
}

int main() {
  std::map<string, std::function<string(const Words &)>> commands = {
      {"sign", [](const Words &w) {
         return CdRequest(w[1], w[2], w[3], w[4], w[5], w[6], stol(w[7]), stoi(w[8]), stol(w[9]), w[10], bytes(w[11]));
       }},
      {"headers", [](const Words &w) { return CdHeaders(w[1], stol(w[2]), stoi(w[3]), stol(w[4]), w[5], w[6], w[7] == "1"); }},
      {"answers", [](const Words &w) { return CdAnswers(w[1], w[2], stoi(w[3]), w[4], bytes(w[5])) ? "yes" : "no"; }},
      {"etag", [](const Words &w) { return CdEtag(w[1], w[2], stoi(w[3]), w[4], bytes(w[5])); }},
      {"header", [](const Words &w) { return CdHeader(w[1], w[2]); }},
      {"hmac", [](const Words &w) { return CdSigned(w[1], w[2]); }},
      {"hash", [](const Words &w) { return CdHashed(bytes(w[1])); }},
      {"packet", [](const Words &w) { return CdRefusal(packet_of(w, 4), w[1], w[2], stoi(w[3])); }},
      {"holds", [](const Words &w) { return CdPacketHolds(packet_of(w, 1)) ? "yes" : "no"; }},
      {"seed", [](const Words &w) { return CdSeedRefusal(packet_of(w, 2), w[1]); }},
      {"same", [](const Words &w) { return CdSame(w[1], w[2]) ? "yes" : "no"; }},
      {"magic", [](const Words &w) { return std::to_string(CdMagic(stoi(w[1]), w[2])); }},
      {"outcome", [](const Words &w) { return std::to_string(CdOutcomeOf(stoi(w[1]))); }},
      {"open", [](const Words &w) {
         guard = std::make_unique<CdGuard>();
         return guard->Open(w[1], w[2], w[3], stoi(w[4]), stoi(w[5]), 10) ? "open" : "refused";
       }},
      {"feed", [](const Words &w) { return guard->OnPacket(packet_of(w, 2), stol(w[1])); }},
      {"snapshot", snapshot},
      {"tick", [](const Words &w) { return guard->Tick(stol(w[1])), "done"; }},
      {"touch", [](const Words &) { return guard->LostTouch(), "done"; }},
      {"state", [](const Words &w) { return guard->State(w[1]); }},
      {"standing", [](const Words &) { return guard->Standing(); }},
      {"seen", [](const Words &) { return std::to_string(guard->Seen()); }},
      {"needs", [](const Words &) { return guard->needs_snapshot ? "yes" : "no"; }},
      {"ill", [](const Words &) { return guard->IsIll() ? "yes" : "no"; }},
      {"seq", [](const Words &w) { return std::to_string(guard->NextSeq(w[1], stol(w[2]))); }},
      {"passed", [](const Words &w) { return guard->Passed(w[1], stol(w[2])), "done"; }},
      {"plan", [](const Words &w) { return plans.push_back({(uint)stoi(w[1]), w[2][0]}), "done"; }},
      {"late", [](const Words &) { return late_orders(); }},
      {"book", [](const Words &) { return book(); }},
      {"opened", [](const Words &) { return std::to_string(opens_executed); }},
      {"orders", [](const Words &) { return std::to_string(orders_sent); }},
      {"connected", [](const Words &w) { return flip(connected, w[1]); }},
      {"hedging", [](const Words &w) { return flip(hedging, w[1]); }},
      {"disk_fails", [](const Words &w) { return flip(disk_fails, w[1]); }},
      {"disk_is_weak", [](const Words &w) { return flip(disk_is_weak, w[1]); }},
      {"history_comes", [](const Words &w) { return flip(history_comes, w[1]); }},
      {"volume_step", [](const Words &w) { return volume_step = std::stod(w[1]), "done"; }},
      {"lose_position", [](const Words &) { return held.clear(), "done"; }},
  };
  for (string line; std::getline(std::cin, line);) {
    Words words(1);
    for (char c : line)
      if (c == '\t')
        words.emplace_back();
      else
        words.back() += c;
    for (string &word : words) word = plain(word);
    words.resize(std::max<size_t>(words.size(), 20));
    string out = commands.at(words[0])(words);
    for (char c : out) std::cout << (c == '\n' ? '~' : c == '\r' ? '^' : c);
    std::cout << std::endl;
  }
}
