// A stand-in for the terminal, so that the MQL5 reference runs through a C++ compiler: its strings, arrays, hashes,
// database (on SQLite itself) and a broker whose next answers are given. Only what the reference calls.
#pragma once
#include <sqlite3.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef long datetime;
typedef std::string string;

template <class T>
struct Array {
  std::vector<T> items;
  T &operator[](int i) { return items.at(i); }
  const T &operator[](int i) const { return items.at(i); }
};
template <class T>
int ArraySize(const Array<T> &a) { return (int)a.items.size(); }
template <class T>
int ArrayResize(Array<T> &a, int size) { a.items.resize(size); return size; }
template <class T>
int ArrayCopy(Array<T> &to, const Array<T> &from, int start = 0) {
  if (ArraySize(to) < start + ArraySize(from)) to.items.resize(start + from.items.size());
  for (int i = 0; i < ArraySize(from); i++) to[start + i] = from[i];
  return ArraySize(from);
}

// --- strings

inline int StringLen(const string &s) { return (int)s.size(); }
inline ushort StringGetCharacter(const string &s, int i) { return (uchar)s.at(i); }
inline string StringSubstr(const string &s, int from, int length = -1) {
  if (from >= (int)s.size()) return "";
  return s.substr(from, length < 0 ? string::npos : (size_t)length);
}
inline int StringFind(const string &s, const string &what, int from = 0) {
  size_t at = s.find(what, from);
  return at == string::npos ? -1 : (int)at;
}
inline int StringCompare(const string &a, const string &b) { return a.compare(b); }
inline bool StringToLower(string &s) {
  for (char &c : s)
    if (c >= 'A' && c <= 'Z') c += 32;
  return true;
}
inline int StringTrimLeft(string &s) {
  size_t n = std::min(s.find_first_not_of(" \t\r\n"), s.size());
  s.erase(0, n);
  return (int)n;
}
inline int StringTrimRight(string &s) {
  size_t before = s.size();
  s.erase(s.find_last_not_of(" \t\r\n") + 1);
  return (int)(before - s.size());
}
inline string IntegerToString(long value) { return std::to_string(value); }
inline long StringToInteger(const string &s) { return strtol(s.c_str(), nullptr, 10); }
inline double StringToDouble(const string &s) { return strtod(s.c_str(), nullptr); }

// --- numbers

inline double MathMin(double a, double b) { return a < b ? a : b; }
inline int MathMax(int a, int b) { return a > b ? a : b; }
inline double MathAbs(double a) { return std::fabs(a); }
inline double MathFloor(double a) { return std::floor(a); }
inline double NormalizeDouble(double a, int digits) { return std::round(a * std::pow(10, digits)) / std::pow(10, digits); }

// --- hashes

enum { CRYPT_HASH_SHA256 };

inline uint32_t turned(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

// FIPS 180-4, with the constants calculated from their definition: roots of the first primes.
inline std::vector<uchar> sha256(std::vector<uchar> data) {
  static uint32_t k[64], first[8];
  if (!k[0]) {
    int found = 0;
    for (int n = 2; found < 64; n++) {
      bool prime = true;
      for (int d = 2; d * d <= n; d++) prime = prime && n % d;
      if (!prime) continue;
      long double cube = cbrtl(n), square = sqrtl(n);
      k[found] = (uint32_t)((cube - floorl(cube)) * 4294967296.0L);
      if (found < 8) first[found] = (uint32_t)((square - floorl(square)) * 4294967296.0L);
      found++;
    }
  }
  uint32_t h[8];
  memcpy(h, first, sizeof h);
  uint64_t bits = data.size() * 8;
  data.push_back(0x80);
  while (data.size() % 64 != 56) data.push_back(0);
  for (int i = 7; i >= 0; i--) data.push_back((uchar)(bits >> (8 * i)));
  for (size_t at = 0; at < data.size(); at += 64) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) {
      const uchar *p = &data[at + 4 * i];
      w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
    }
    for (int i = 16; i < 64; i++) {
      uint32_t a = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ (w[i - 15] >> 3);
      uint32_t b = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
      uint32_t s1 = turned(v[4], 6) ^ turned(v[4], 11) ^ turned(v[4], 25);
      uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
      uint32_t s0 = turned(v[0], 2) ^ turned(v[0], 13) ^ turned(v[0], 22);
      uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      memmove(v + 1, v, 7 * sizeof *v);
      v[4] += t1;
      v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
  }
  std::vector<uchar> digest;
  for (uint32_t word : h)
    for (int i = 3; i >= 0; i--) digest.push_back((uchar)(word >> (8 * i)));
  return digest;
}

// As the terminal's: the key is ignored, and an empty array is an error.
inline int CryptEncode(int, const Array<uchar> &data, const Array<uchar> &, Array<uchar> &result) {
  if (data.items.empty()) return 0;
  result.items = sha256(data.items);
  return (int)result.items.size();
}

// --- the database

enum { INVALID_HANDLE = -1, DATABASE_OPEN_READWRITE = 2, DATABASE_OPEN_CREATE = 4, ERR_DATABASE_NO_MORE_DATA = 5126 };
inline int last_error;
inline bool disk_fails, disk_is_weak;
inline std::vector<sqlite3 *> databases;
inline std::vector<sqlite3_stmt *> requests;

inline int GetLastError() { return last_error; }
inline void ResetLastError() { last_error = 0; }
inline int DatabaseOpen(const string &file, uint) {
  sqlite3 *db;
  if (sqlite3_open(file.c_str(), &db) != SQLITE_OK) return INVALID_HANDLE;
  databases.push_back(db);
  return (int)databases.size() - 1;
}
inline void DatabaseClose(int db) { sqlite3_close_v2(databases.at(db)); }
inline bool DatabaseExecute(int db, const string &sql) {
  return sqlite3_exec(databases.at(db), sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK;
}
inline bool DatabaseTransactionBegin(int db) { return DatabaseExecute(db, "begin"); }
inline bool DatabaseTransactionCommit(int db) { return !disk_fails && DatabaseExecute(db, "commit"); }
inline bool DatabaseTransactionRollback(int db) { return DatabaseExecute(db, "rollback"); }
inline int DatabasePrepare(int db, const string &sql) {
  sqlite3_stmt *made;
  const string kept = disk_is_weak && sql == "pragma synchronous=full" ? "pragma synchronous=normal" : sql;
  if (sqlite3_prepare_v2(databases.at(db), kept.c_str(), -1, &made, nullptr) != SQLITE_OK) return INVALID_HANDLE;
  requests.push_back(made);
  return (int)requests.size() - 1;
}
inline bool DatabaseBind(int r, int i, const string &v) {
  return sqlite3_bind_text(requests.at(r), i + 1, v.c_str(), -1, SQLITE_TRANSIENT) == SQLITE_OK;
}
inline bool DatabaseBind(int r, int i, double v) { return sqlite3_bind_double(requests.at(r), i + 1, v) == SQLITE_OK; }
inline bool DatabaseBind(int r, int i, long v) { return sqlite3_bind_int64(requests.at(r), i + 1, v) == SQLITE_OK; }
inline bool DatabaseRead(int r) {
  int code = sqlite3_step(requests.at(r));
  last_error = code == SQLITE_DONE ? ERR_DATABASE_NO_MORE_DATA : code == SQLITE_ROW ? 0 : 5601;
  return code == SQLITE_ROW;
}
inline void DatabaseFinalize(int r) { sqlite3_finalize(requests.at(r)); }
inline bool DatabaseColumnText(int r, int i, string &v) {
  const uchar *text = sqlite3_column_text(requests.at(r), i);
  v = text ? (const char *)text : "";
  return true;
}
inline bool DatabaseColumnLong(int r, int i, long &v) { v = sqlite3_column_int64(requests.at(r), i); return true; }
inline bool DatabaseColumnDouble(int r, int i, double &v) { v = sqlite3_column_double(requests.at(r), i); return true; }

// --- a broker

enum { ACCOUNT_MARGIN_MODE, ACCOUNT_MARGIN_MODE_RETAIL_HEDGING, TERMINAL_CONNECTED, SYMBOL_FILLING_MODE };
enum { SYMBOL_ASK, SYMBOL_BID, SYMBOL_VOLUME_STEP, SYMBOL_VOLUME_MIN, SYMBOL_POINT };
enum { POSITION_MAGIC, POSITION_TYPE, POSITION_TYPE_BUY, POSITION_VOLUME, POSITION_SL, POSITION_TP, POSITION_SYMBOL };
enum { ORDER_MAGIC, DEAL_MAGIC, SYMBOL_FILLING_FOK = 1, SYMBOL_FILLING_IOC = 2 };
enum ENUM_TRADE_ACTION { TRADE_ACTION_NONE, TRADE_ACTION_DEAL, TRADE_ACTION_SLTP };
enum ENUM_ORDER_TYPE { ORDER_TYPE_BUY, ORDER_TYPE_SELL };
enum ENUM_FILLING { ORDER_FILLING_RETURN, ORDER_FILLING_IOC, ORDER_FILLING_FOK };

struct MqlTradeRequest {
  ENUM_TRADE_ACTION action;
  ulong magic;
  string symbol;
  double volume, price, sl, tp;
  ulong deviation, position;
  ENUM_ORDER_TYPE type;
  ENUM_FILLING type_filling;
};
struct MqlTradeResult {
  uint retcode;
};

struct Held {
  ulong ticket, magic;
  string symbol;
  ENUM_ORDER_TYPE type;
  double volume, sl, tp;
};
struct Plan {
  uint code;
  char executes;  // y, n, or l: later, when it is let
};

inline bool connected = true, hedging = true, history_comes = true;
inline double volume_step = 0.01;
inline std::vector<Held> held;
inline std::vector<ulong> pending, deals;
inline std::deque<Plan> plans;
inline std::vector<MqlTradeRequest> late;
inline int orders_sent, opens_executed;
inline Held selected;
inline ulong next_ticket = 100;

inline void execute(const MqlTradeRequest &request) {
  for (size_t i = 0; i < held.size(); i++) {
    if (request.position == 0 || held[i].ticket != request.position) continue;
    if (request.action == TRADE_ACTION_SLTP) {
      held[i].sl = request.sl;
      held[i].tp = request.tp;
      return;
    }
    deals.push_back(request.magic);
    held[i].volume -= request.volume;
    if (held[i].volume < 0.000001) held.erase(held.begin() + i);
    return;
  }
  if (request.position || request.action != TRADE_ACTION_DEAL) return;
  deals.push_back(request.magic);
  opens_executed++;
  held.push_back({next_ticket++, request.magic, request.symbol, request.type, request.volume, request.sl, request.tp});
}
inline bool OrderSend(const MqlTradeRequest &request, MqlTradeResult &result) {
  orders_sent++;
  Plan plan = {10009, 'y'};
  if (!plans.empty()) {
    plan = plans.front();
    plans.pop_front();
  }
  if (plan.executes == 'y') execute(request);
  if (plan.executes == 'l') late.push_back(request);
  result.retcode = plan.code;
  return plan.code == 10009;
}
inline int PositionsTotal() { return (int)held.size(); }
inline ulong PositionGetTicket(int i) {
  selected = held.at(i);
  return selected.ticket;
}
inline bool PositionSelectByTicket(ulong ticket) {
  for (const Held &one : held)
    if (one.ticket == ticket) {
      selected = one;
      return true;
    }
  return false;
}
inline long PositionGetInteger(int what) {
  if (what == POSITION_MAGIC) return (long)selected.magic;
  return selected.type == ORDER_TYPE_BUY ? POSITION_TYPE_BUY : -1;
}
inline double PositionGetDouble(int what) {
  return what == POSITION_VOLUME ? selected.volume : what == POSITION_SL ? selected.sl : selected.tp;
}
inline string PositionGetString(int) { return selected.symbol; }
inline int selected_order;
inline int OrdersTotal() { return (int)pending.size(); }
inline ulong OrderGetTicket(int i) { selected_order = i; return (ulong)i + 1; }
inline long OrderGetInteger(int) { return (long)pending.at(selected_order); }
inline bool HistorySelect(datetime, datetime) { return history_comes; }
inline int HistoryDealsTotal() { return (int)deals.size(); }
inline ulong HistoryDealGetTicket(int i) { return (ulong)i + 1; }
inline long HistoryDealGetInteger(ulong ticket, int) { return (long)deals.at(ticket - 1); }
inline datetime TimeCurrent() { return 1767600000; }
inline long AccountInfoInteger(int) { return hedging ? ACCOUNT_MARGIN_MODE_RETAIL_HEDGING : -1; }
inline long TerminalInfoInteger(int) { return connected; }
inline long SymbolInfoInteger(const string &, int) { return SYMBOL_FILLING_IOC; }
inline double SymbolInfoDouble(const string &, int what) {
  if (what == SYMBOL_VOLUME_STEP || what == SYMBOL_VOLUME_MIN) return volume_step;
  return what == SYMBOL_POINT ? 0.00001 : 1.1;
}
