// Copydesk for MQL5: the guard between signals and orders, and the numbers of requests, in one SQLite file.
//
// Reference, not compiled here with MetaEditor: see Copydesk.mqh. For hedging accounts. One chart holds the file.
//
// An open happens at most once: a missed trade costs an opportunity, a doubled one costs money. Closes, reductions and
// stops are targets: the guard repeats them until the terminal's books agree. A row is on disk before its order is sent;
// it never goes from closed to open, and its volume never grows. If the answer to an order is lost, the guard looks for
// its magic number. If the books are complete and show nothing, it gives the trade up. Packets are hints; a snapshot
// with a verified answer (CdAnswers) decides.

#ifndef COPYDESK_GUARD_MQH
#define COPYDESK_GUARD_MQH

#include "Copydesk.mqh"

#define CD_INTENT "INTENT"      // an order is or may be in flight
#define CD_REJECTED "REJECTED"  // the broker clearly refused
#define CD_HELD "HELD"          // the broker has the position
#define CD_GONE "GONE"          // the position has ended
#define CD_DEAD "DEAD"          // there was no position and never will be
#define CD_LIVE "LIVE"
#define CD_HOLD "HOLD"          // the desk went back in time: nothing is done until it has a new epoch
#define CD_HALT "HALT"          // forged packets: no trade is opened

#define CD_MAX_OPEN_AGE_MS 5000
#define CD_SETTLE_MS 60000      // longer than the broker's slowest answer
#define CD_SECOND_LOOK_MS 5000
#define CD_ATTEMPTS 3
#define CD_BRAKE_LEAST 5
#define CD_BRAKE_MS 2000
#define CD_KEPT 10000

enum CdOutcome { CD_DONE, CD_REFUSED, CD_UNKNOWN };
enum CdTrace { CD_NO_TRACE, CD_PENDING, CD_EXECUTED, CD_CANNOT_SAY };

// What a copy must be. born_ms: when the desk learned of the provider's trade. A stop of 0 means none.
struct CdTarget
  {
   string            ref;
   string            symbol;
   string            side;
   double            volume;
   double            sl;
   double            tp;
   long              seq;
   long              born_ms;
   bool              opens;
  };

struct CdCopy
  {
   string            ref;
   ulong             magic;
   string            symbol;
   string            side;
   double            volume;
   double            sl;
   double            tp;
   string            state;
   int               attempts;
   long              born_ms;
   long              sent_ms;
   long              looked_ms;
   long              reduced_ms;
  };

// Any code that is not a clear yes or no is unknown: 10008, 10011, 10012, 10028, 10031, 10039, and no code at all.
CdOutcome CdOutcomeOf(const uint code)
  {
   if(code==10009 || code==10010)
      return CD_DONE;
   if(code==10004 || code==10006 || code==10007 || (code>=10013 && code<=10024) || code==10026 || code==10027
      || code==10029 || code==10030 || (code>=10032 && code<=10036) || code==10038 || (code>=10040 && code<=10046))
      return CD_REFUSED;
   return CD_UNKNOWN;
  }

class CdGuard
  {
private:
   int               m_db;
   bool              m_ill;         // the file failed: no more orders are sent
   string            m_sub_id;
   string            m_secret;
   int               m_generation;
   int               m_index;
   uint              m_deviation;
   long              m_brake_ms;
   string            m_going;
   long              m_connected_ms;

   bool              Run(const int request);
   bool              Execute(const string sql);
   bool              Begin(void);
   bool              Commit(void);
   long              Number(const string sql);
   long              LastSeq(const string key);
   string            Text(const string sql);
   bool              SetText(const string sql, const string value);
   bool              SetNumber(const string sql, const long value);
   bool              Row(const string ref, CdCopy &copy);
   bool              Numbered(const ulong magic, CdCopy &copy);
   bool              Read(const int request, CdCopy &copy);
   void              Unfinished(CdCopy &copies[]);
   bool              Insert(const CdTarget &target, const string state, const ulong magic, const long now_ms,
                            const string why);
   bool              Mark(const CdCopy &copy, const string state, const string why);
   bool              Note(const CdCopy &copy, const string column, const long value);
   bool              GiveUp(const CdTarget &target, const string why, const long now_ms);
   bool              Lower(const CdTarget &target);
   bool              Intend(const CdTarget &target, const long now_ms);
   bool              IsNumbered(const ulong magic);
   void              Compare(const string seq, const string hash);
   bool              Brakes(const CdTarget &targets[], const long now_ms);
   void              TakeIn(const CdTarget &targets[], const long now_ms);
   bool              IsOurs(const ulong magic);
   ulong             PositionOf(const ulong magic);
   CdTrace           TraceOf(const CdCopy &copy);
   bool              IsSettled(const long now_ms);
   void              Send(const CdCopy &copy);
   void              Drive(const CdCopy &copy, const ulong ticket, const long now_ms);
   void              FindOut(const CdCopy &copy, const long now_ms);
   void              TryAgain(const CdCopy &copy, const long now_ms);
   CdOutcome         Deal(const string symbol, const bool buys, const double volume, const double sl, const double tp,
                          const ulong magic, const ulong position);
   CdOutcome         Protect(const string symbol, const ulong position, const double sl, const double tp);
   double            Fit(const string symbol, const double volume);
   double            ToClose(const string symbol, const double held, const double target);

public:
   bool              needs_snapshot;  // no trade is opened until the next snapshot

                     CdGuard(void) { m_db=INVALID_HANDLE; m_ill=true; needs_snapshot=true; m_connected_ms=0; }
                    ~CdGuard(void) { if(m_db!=INVALID_HANDLE) DatabaseClose(m_db); }
   bool              Open(const string file, const string sub_id, const string secret, const int generation,
                          const int index, const uint deviation);
   string            Standing(void) { return Text("select standing from guard"); }
   bool              IsIll(void) { return m_ill; }  // the file failed: check the positions yourself
   long              Seen(void) { return Number("select seen from guard"); }
   string            State(const string ref);
   long              NextSeq(const string key, const long desk_ms);
   void              Passed(const string key, const long last_seq);
   string            OnPacket(const CdPacket &packet, const long now_ms);
   bool              OnSnapshot(const string epoch, const long as_of, const long asked_at, const CdTarget &targets[],
                                const long now_ms);
   void              Tick(const long now_ms);
   void              LostTouch(void) { needs_snapshot=true; }
   void              Release(void) { Execute("update guard set standing='LIVE' where standing='HALT'"); }
  };

//--- the file

bool CdGuard::Open(const string file, const string sub_id, const string secret, const int generation, const int index,
                   const uint deviation)
  {
   m_sub_id=sub_id;
   m_secret=secret;
   m_generation=generation;
   m_index=index;
   m_deviation=deviation;
   m_brake_ms=0;
   m_going="";
   if(AccountInfoInteger(ACCOUNT_MARGIN_MODE)!=ACCOUNT_MARGIN_MODE_RETAIL_HEDGING)
      return false;
   m_db=DatabaseOpen(file,DATABASE_OPEN_READWRITE|DATABASE_OPEN_CREATE);
   if(m_db==INVALID_HANDLE)
      return false;
   m_ill=false;
   Text("pragma locking_mode=exclusive");
   Text("pragma journal_mode=wal");
   Text("pragma synchronous=full");
   if(Number("pragma synchronous")!=2)  // with less, a row may not be on disk when its order is sent
     {
      m_ill=true;
      return false;
     }
   bool made=Begin()
     && Execute("create table if not exists guard (sub_id text primary key, seen integer, epoch text, standing text)")
     && Execute("create table if not exists copy (ref text primary key, magic integer unique, symbol text, side text, "
                +"volume real, sl real, tp real, seq integer, state text, attempts integer, born_ms integer, "
                +"sent_ms integer, looked_ms integer, reduced_ms integer, why text)")
     && Execute("create table if not exists heard (seq integer primary key, sha256 text)")
     && Execute("create table if not exists line (key text primary key, seq integer)")
     && SetText("insert or ignore into guard values (?, 0, '', 'LIVE')",sub_id)
     && Commit();
   if(!made || Text("select sub_id from guard")!=sub_id)  // the file belongs to another subscription
      m_ill=true;
   return !m_ill;
  }

bool CdGuard::Run(const int request)
  {
   if(request==INVALID_HANDLE)
     {
      m_ill=true;
      return false;
     }
   ResetLastError();
   bool done=DatabaseRead(request) || GetLastError()==ERR_DATABASE_NO_MORE_DATA;
   DatabaseFinalize(request);
   if(!done)
      m_ill=true;
   return done;
  }

bool CdGuard::Execute(const string sql)
  {
   if(!m_ill && DatabaseExecute(m_db,sql))
      return true;
   m_ill=true;
   return false;
  }

bool CdGuard::Begin(void)
  {
   if(!m_ill && DatabaseTransactionBegin(m_db))
      return true;
   m_ill=true;
   return false;
  }

// True: the transaction is on disk. False: the file has failed, and nothing decided since Begin may be done.
bool CdGuard::Commit(void)
  {
   if(!m_ill && DatabaseTransactionCommit(m_db))
      return true;
   DatabaseTransactionRollback(m_db);
   m_ill=true;
   return false;
  }

long CdGuard::Number(const string sql)
  {
   long value=0;
   int request=DatabasePrepare(m_db,sql);
   if(request==INVALID_HANDLE)
      return 0;
   if(DatabaseRead(request))
      DatabaseColumnLong(request,0,value);
   DatabaseFinalize(request);
   return value;
  }

string CdGuard::Text(const string sql)
  {
   string value="";
   int request=DatabasePrepare(m_db,sql);
   if(request==INVALID_HANDLE)
      return "";
   if(DatabaseRead(request))
      DatabaseColumnText(request,0,value);
   DatabaseFinalize(request);
   return value;
  }

bool CdGuard::SetText(const string sql, const string value)
  {
   int request=DatabasePrepare(m_db,sql);
   if(request!=INVALID_HANDLE)
      DatabaseBind(request,0,value);
   return Run(request);
  }

bool CdGuard::SetNumber(const string sql, const long value)
  {
   int request=DatabasePrepare(m_db,sql);
   if(request!=INVALID_HANDLE)
      DatabaseBind(request,0,value);
   return Run(request);
  }

// A request's number: above the last one, and on disk before the request is sent. 0: do not send.
long CdGuard::NextSeq(const string key, const long desk_ms)
  {
   if(!Begin())
      return 0;
   SetText("insert or ignore into line values (?, 0)",key);
   SetText("update line set seq=max(seq+1, "+IntegerToString(desk_ms*1000)+") where key=?",key);
   return Commit() ? LastSeq(key) : 0;
  }

long CdGuard::LastSeq(const string key)
  {
   long seq=0;
   int request=DatabasePrepare(m_db,"select seq from line where key=?");
   if(request==INVALID_HANDLE)
      return 0;
   DatabaseBind(request,0,key);
   if(DatabaseRead(request))
      DatabaseColumnLong(request,0,seq);
   DatabaseFinalize(request);
   return seq;
  }

// After a signed refusal seq_replayed: continue above the last number that the desk has seen.
void CdGuard::Passed(const string key, const long last_seq)
  {
   SetText("update line set seq=max(seq, "+IntegerToString(last_seq)+") where key=?",key);
  }

//--- rows

bool CdGuard::Read(const int request, CdCopy &copy)
  {
   long magic=0;
   long attempts=0;
   bool read=DatabaseColumnText(request,0,copy.ref) && DatabaseColumnLong(request,1,magic)
     && DatabaseColumnText(request,2,copy.symbol) && DatabaseColumnText(request,3,copy.side)
     && DatabaseColumnDouble(request,4,copy.volume) && DatabaseColumnDouble(request,5,copy.sl)
     && DatabaseColumnDouble(request,6,copy.tp) && DatabaseColumnText(request,7,copy.state)
     && DatabaseColumnLong(request,8,attempts) && DatabaseColumnLong(request,9,copy.born_ms)
     && DatabaseColumnLong(request,10,copy.sent_ms) && DatabaseColumnLong(request,11,copy.looked_ms)
     && DatabaseColumnLong(request,12,copy.reduced_ms);
   copy.magic=(ulong)magic;
   copy.attempts=(int)attempts;
   return read;
  }

#define CD_COLUMNS "select ref, magic, symbol, side, volume, sl, tp, state, attempts, born_ms, sent_ms, looked_ms, "+"reduced_ms from copy "

bool CdGuard::Row(const string ref, CdCopy &copy)
  {
   int request=DatabasePrepare(m_db,CD_COLUMNS+"where ref=?");
   if(request==INVALID_HANDLE)
     {
      m_ill=true;
      return false;
     }
   DatabaseBind(request,0,ref);
   bool found=DatabaseRead(request) && Read(request,copy);
   DatabaseFinalize(request);
   return found;
  }

void CdGuard::Unfinished(CdCopy &copies[])
  {
   ArrayResize(copies,0);
   int request=DatabasePrepare(m_db,CD_COLUMNS+"where state in ('INTENT', 'REJECTED', 'HELD') order by seq, ref");
   if(request==INVALID_HANDLE)
      return;
   while(DatabaseRead(request))
     {
      int size=ArraySize(copies);
      ArrayResize(copies,size+1);
      if(!Read(request,copies[size]))
         ArrayResize(copies,size);
     }
   DatabaseFinalize(request);
  }

bool CdGuard::Numbered(const ulong magic, CdCopy &copy)
  {
   int request=DatabasePrepare(m_db,CD_COLUMNS+"where magic="+IntegerToString((long)magic));
   bool found=request!=INVALID_HANDLE && DatabaseRead(request) && Read(request,copy);
   if(request!=INVALID_HANDLE)
      DatabaseFinalize(request);
   return found;
  }

string CdGuard::State(const string ref)
  {
   CdCopy copy;
   return Row(ref,copy) ? copy.state : "";
  }

bool CdGuard::IsNumbered(const ulong magic)
  {
   return Number("select count(*) from copy where magic="+IntegerToString((long)magic))>0;
  }

bool CdGuard::Insert(const CdTarget &target, const string state, const ulong magic, const long now_ms, const string why)
  {
   int request=DatabasePrepare(m_db,"insert into copy values (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, 0, 0, ?)");
   if(request!=INVALID_HANDLE)
     {
      DatabaseBind(request,0,target.ref);
      DatabaseBind(request,1,why=="magic_taken" ? -(long)magic : (long)magic);  // another trade has that number
      DatabaseBind(request,2,target.symbol);
      DatabaseBind(request,3,target.side);
      DatabaseBind(request,4,target.volume);
      DatabaseBind(request,5,target.sl);
      DatabaseBind(request,6,target.tp);
      DatabaseBind(request,7,target.seq);
      DatabaseBind(request,8,state);
      DatabaseBind(request,9,target.born_ms);
      DatabaseBind(request,10,now_ms);
      DatabaseBind(request,11,why);
     }
   return Run(request);
  }

bool CdGuard::Mark(const CdCopy &copy, const string state, const string why)
  {
   int request=DatabasePrepare(m_db,"update copy set state=?, why=?, looked_ms=0 where ref=?");
   if(request!=INVALID_HANDLE)
     {
      DatabaseBind(request,0,state);
      DatabaseBind(request,1,why);
      DatabaseBind(request,2,copy.ref);
     }
   return Run(request);
  }

bool CdGuard::Note(const CdCopy &copy, const string column, const long value)
  {
   return SetText("update copy set "+column+"="+IntegerToString(value)+" where ref=?",copy.ref);
  }

bool CdGuard::GiveUp(const CdTarget &target, const string why, const long now_ms)
  {
   CdCopy copy;
   return Row(target.ref,copy) || Insert(target,CD_DEAD,CdMagic(m_index,target.ref),now_ms,why);
  }

// Lowers a copy's volume, which never rises, and takes over the stops while there is a volume to protect.
bool CdGuard::Lower(const CdTarget &target)
  {
   CdCopy copy;
   if(!Row(target.ref,copy) || copy.volume<=0)
      return true;
   double volume=MathMin(copy.volume,target.volume);
   int request=DatabasePrepare(m_db,"update copy set volume=?, sl=?, tp=? where ref=?");
   if(request!=INVALID_HANDLE)
     {
      DatabaseBind(request,0,volume);
      DatabaseBind(request,1,volume>0 ? target.sl : copy.sl);
      DatabaseBind(request,2,volume>0 ? target.tp : copy.tp);
      DatabaseBind(request,3,target.ref);
     }
   return Run(request);
  }

// Whether the row is a new intent, so that its order may be sent once the row is on disk.
bool CdGuard::Intend(const CdTarget &target, const long now_ms)
  {
   CdCopy copy;
   if(Row(target.ref,copy) || m_ill)
      return false;
   ulong magic=CdMagic(m_index,target.ref);
   string why="";
   if(Standing()!=CD_LIVE)
      why="halted";
   else if(now_ms-target.born_ms>CD_MAX_OPEN_AGE_MS)
      why="missed";
   else if(magic==0 || IsNumbered(magic))
      why="magic_taken";
   else if(!target.opens || target.volume<=0)
      why="not_wanted";
   if(why!="")
     {
      GiveUp(target,why,now_ms);
      return false;
     }
   return Insert(target,CD_INTENT,magic,now_ms,"");
  }

#include "CopydeskOrders.mqh"

#endif
