// Copydesk for MQL5: the guard's handling of signals and orders. Included by CopydeskGuard.mqh; a reference like it.

//--- signals

CdTarget CdTargetOf(const CdPacket &packet)
  {
   CdTarget target;
   target.ref=packet.trade_ref;
   target.symbol=packet.symbol;
   target.side=packet.type;
   target.volume=packet.action=="CLOSE" ? 0 : StringToDouble(packet.volume);
   target.sl=StringToDouble(packet.sl);
   target.tp=StringToDouble(packet.tp);
   target.seq=StringToInteger(packet.seq);
   target.born_ms=StringToInteger(packet.timestamp);
   target.opens=true;
   return target;
  }

// Ignores a repeated packet. Halts on a different packet of the same number: a forgery, or a faulty desk.
void CdGuard::Compare(const string seq, const string hash)
  {
   string before=Text("select sha256 from heard where seq="+seq);
   if(before!="" && before!=hash)
      Execute("update guard set standing='HALT' where standing='LIVE'");
  }

// Takes up a packet; returns "" or why it was refused. No field is parsed before the MAC is verified.
string CdGuard::OnPacket(const CdPacket &packet, const long now_ms)
  {
   string refusal=CdRefusal(packet,m_secret,m_sub_id,m_generation);
   if(refusal!="")
      return refusal;
   CdTarget target=CdTargetOf(packet);
   uchar payload[];
   CdBytes(CdPayload(packet),payload);
   string hash=CdHashed(payload);
   long seen=Seen();
   if(target.seq<=seen)
     {
      Compare(packet.seq,hash);
      return "";
     }
   bool in_turn=target.seq==seen+1 && !needs_snapshot && Standing()==CD_LIVE;
   if(!in_turn)
      needs_snapshot=true;
   bool shrinks=packet.action=="CLOSE" || packet.action=="REDUCE";
   if((!in_turn && (!shrinks || Standing()==CD_HOLD)) || !Begin())
      return "";
   bool kept=true;
   if(in_turn)
      kept=Execute("update guard set seen="+packet.seq)
           && SetText("insert or replace into heard values ("+packet.seq+", ?)",hash)
           && SetNumber("delete from heard where seq<=?",target.seq-CD_KEPT);
   bool opens=false;
   if(packet.action=="OPEN")
      opens=Intend(target,now_ms);
   else if(packet.action!="GAPFILL")
     {
      if(packet.action=="CLOSE")
         GiveUp(target,"closed",now_ms);  // the close overtook its open, which must find the trade dead
      Lower(target);
     }
   CdCopy copy;
   if(kept && Commit() && opens && Row(target.ref,copy))
      Send(copy);
   Tick(now_ms);
   return "";
  }

// Brings every copy in line with the active trades. Pass only a snapshot with a verified answer; asked_at is Seen() at
// the time of the request. False if the snapshot was not taken up: request another one.
bool CdGuard::OnSnapshot(const string epoch, const long as_of, const long asked_at, const CdTarget &targets[],
                         const long now_ms)
  {
   string before=Text("select epoch from guard");
   if(before==epoch)
     {
      if(Standing()==CD_HOLD)
         return false;
      if(as_of<asked_at)
        {
         Execute("update guard set standing='HOLD'");
         needs_snapshot=true;
         return false;
        }
      if(as_of<Seen())
         return false;  // packets overtook it
     }
   if(m_ill || Brakes(targets,now_ms) || !Begin())
      return false;
   if(before!=epoch)
     {
      Execute("delete from heard");
      SetText("update guard set epoch=?",epoch);
      Execute("update guard set standing='LIVE' where standing='HOLD'");
     }
   SetNumber("update guard set seen=?",as_of);
   CdCopy copies[];
   Unfinished(copies);
   for(int i=0; i<ArraySize(copies); i++)
     {
      bool active=false;
      for(int j=0; j<ArraySize(targets); j++)
         active=active || targets[j].ref==copies[i].ref;
      if(!active)
         SetText("update copy set volume=0 where ref=?",copies[i].ref);
     }
   TakeIn(targets,now_ms);
   for(int i=0; i<ArraySize(targets); i++)
     {
      Lower(targets[i]);
      if(before=="")  // a new file knows nothing of trades that opened before it, so none of them is opened
         GiveUp(targets[i],"new_install",now_ms);
     }
   if(!Commit())
      return false;
   needs_snapshot=false;
   for(int i=0; i<ArraySize(targets); i++)
     {
      CdCopy copy;
      if(!Begin())
         return false;
      bool opens=Intend(targets[i],now_ms);
      if(Commit() && opens && Row(targets[i].ref,copy))
         Send(copy);
     }
   Tick(now_ms);
   return true;
  }

// Whether the snapshot closes so much that a second one must confirm it a moment later.
bool CdGuard::Brakes(const CdTarget &targets[], const long now_ms)
  {
   string going="";
   int closing=0;
   int held=0;
   for(int i=0; i<PositionsTotal(); i++)
     {
      ulong ticket=PositionGetTicket(i);
      ulong magic=(ulong)PositionGetInteger(POSITION_MAGIC);
      if(ticket==0 || !IsOurs(magic))
         continue;
      held++;
      bool stays=false;
      for(int j=0; j<ArraySize(targets); j++)
         stays=stays || (targets[j].volume>0 && CdMagic(m_index,targets[j].ref)==magic);
      if(!stays)
        {
         closing++;
         going+=IntegerToString((long)magic)+" ";
        }
     }
   if(closing<=MathMax(CD_BRAKE_LEAST,held/2))
     {
      m_going="";
      return false;
     }
   if(m_going==going && m_brake_ms>0)
      return now_ms-m_brake_ms<CD_BRAKE_MS;
   m_going=going;
   m_brake_ms=now_ms;
   return true;
  }

// Positions with our number but without a row come from a lost file. Those of active trades are kept, others closed.
void CdGuard::TakeIn(const CdTarget &targets[], const long now_ms)
  {
   for(int i=0; i<PositionsTotal(); i++)
     {
      ulong ticket=PositionGetTicket(i);
      ulong magic=(ulong)PositionGetInteger(POSITION_MAGIC);
      if(ticket==0 || !IsOurs(magic) || IsNumbered(magic))
         continue;
      CdTarget target;
      target.ref="unknown-"+IntegerToString((long)magic);
      target.symbol=PositionGetString(POSITION_SYMBOL);
      target.side=PositionGetInteger(POSITION_TYPE)==POSITION_TYPE_BUY ? "BUY" : "SELL";
      target.volume=0;
      target.sl=0;
      target.tp=0;
      target.seq=0;
      target.born_ms=now_ms;
      target.opens=false;
      for(int j=0; j<ArraySize(targets); j++)
         if(CdMagic(m_index,targets[j].ref)==magic)
            target=targets[j];
      Insert(target,CD_HELD,magic,now_ms,"");
     }
  }

//--- driving

// Brings every copy closer to its target. Call it from OnTimer about once a second; any time is safe.
void CdGuard::Tick(const long now_ms)
  {
   if(!(bool)TerminalInfoInteger(TERMINAL_CONNECTED))
     {
      m_connected_ms=0;
      return;
     }
   if(m_connected_ms==0)
      m_connected_ms=now_ms;
   if(m_ill || Standing()==CD_HOLD)
      return;
   CdCopy copies[];
   Unfinished(copies);
   for(int i=0; i<ArraySize(copies); i++)
     {
      if(PositionOf(copies[i].magic)!=0)
         continue;
      if(copies[i].state==CD_HELD)
        {
         if(IsSettled(now_ms))
            Mark(copies[i],CD_GONE,"");
        }
      else if(copies[i].state==CD_REJECTED)
         TryAgain(copies[i],now_ms);
      else
         FindOut(copies[i],now_ms);
     }
   for(int i=PositionsTotal()-1; i>=0; i--)
     {
      CdCopy copy;
      ulong ticket=PositionGetTicket(i);
      if(ticket!=0 && Numbered((ulong)PositionGetInteger(POSITION_MAGIC),copy))  // also a position that was opened late
         Drive(copy,ticket,now_ms);
     }
  }

// Sends the order of a recorded intent. Without a clear yes or no the row stays an intent.
void CdGuard::Send(const CdCopy &copy)
  {
   CdOutcome outcome=Deal(copy.symbol,copy.side=="BUY",Fit(copy.symbol,copy.volume),copy.sl,copy.tp,copy.magic,0);
   if(outcome==CD_DONE)
      Mark(copy,CD_HELD,"");
   else if(outcome==CD_REFUSED)
      Mark(copy,CD_REJECTED,"");
  }

void CdGuard::Drive(const CdCopy &copy, const ulong ticket, const long now_ms)
  {
   if(copy.state!=CD_HELD)
      Mark(copy,CD_HELD,"");
   if(!PositionSelectByTicket(ticket))
      return;
   bool buys=PositionGetInteger(POSITION_TYPE)==POSITION_TYPE_BUY;
   double held=PositionGetDouble(POSITION_VOLUME);
   double sl=PositionGetDouble(POSITION_SL);
   double tp=PositionGetDouble(POSITION_TP);
   double volume=ToClose(copy.symbol,held,copy.volume);
   double point=SymbolInfoDouble(copy.symbol,SYMBOL_POINT);
   if(copy.volume<=0)
      Deal(copy.symbol,!buys,held,0,0,copy.magic,ticket);
   else if(volume>0)
     {
      // Reduce once: an order whose answer was lost may still be executed, and a second would reduce twice.
      if(copy.reduced_ms>0 && (now_ms-copy.reduced_ms<CD_SETTLE_MS || !IsSettled(now_ms)))
         return;
      if(Note(copy,"reduced_ms",now_ms) && Deal(copy.symbol,!buys,volume,0,0,copy.magic,ticket)!=CD_UNKNOWN)
         Note(copy,"reduced_ms",0);
     }
   else
     {
      if(copy.reduced_ms>0)
         Note(copy,"reduced_ms",0);
      if(MathAbs(sl-copy.sl)>point/2 || MathAbs(tp-copy.tp)>point/2)
         Protect(copy.symbol,ticket,copy.sl,copy.tp);
     }
  }

// Looks for an order without an answer in the books, twice, once they must be complete.
void CdGuard::FindOut(const CdCopy &copy, const long now_ms)
  {
   CdTrace trace=TraceOf(copy);
   if(trace==CD_EXECUTED)
      Mark(copy,CD_GONE,"");
   if(trace!=CD_NO_TRACE || !IsSettled(now_ms) || now_ms-copy.sent_ms<CD_SETTLE_MS)
      return;
   if(copy.looked_ms==0)
      Note(copy,"looked_ms",now_ms);
   else if(now_ms-copy.looked_ms>=CD_SECOND_LOOK_MS)
      Mark(copy,CD_DEAD,"lost");
  }

// Sends an order that the broker clearly refused again, if the open is still wanted.
void CdGuard::TryAgain(const CdCopy &copy, const long now_ms)
  {
   if(needs_snapshot)
      return;
   bool late=now_ms-copy.born_ms>CD_MAX_OPEN_AGE_MS;
   if(late || copy.volume<=0 || copy.attempts>=CD_ATTEMPTS || Standing()!=CD_LIVE)
     {
      Mark(copy,CD_DEAD,"rejected");
      return;
     }
   string set="update copy set state='INTENT', attempts=attempts+1, sent_ms="+IntegerToString(now_ms)+" where ref=?";
   if(SetText(set,copy.ref))
      Send(copy);
  }

//--- the terminal

bool CdGuard::IsOurs(const ulong magic)
  {
   return (magic>>40)==((((ulong)CD_MARK<<56)>>40)|(ulong)(m_index&0xFFFF));
  }

// The ticket of the position with this number; 0 if there is none. Tickets may change, so none is stored.
ulong CdGuard::PositionOf(const ulong magic)
  {
   for(int i=0; i<PositionsTotal(); i++)
     {
      ulong ticket=PositionGetTicket(i);
      if(ticket!=0 && (ulong)PositionGetInteger(POSITION_MAGIC)==magic)
         return ticket;
     }
   return 0;
  }

CdTrace CdGuard::TraceOf(const CdCopy &copy)
  {
   for(int i=0; i<OrdersTotal(); i++)
     {
      ulong ticket=OrderGetTicket(i);
      if(ticket==0)
         return CD_CANNOT_SAY;
      if((ulong)OrderGetInteger(ORDER_MAGIC)==copy.magic)
         return CD_PENDING;
     }
   // From a day before to a day after, because the server's time zone is unknown.
   if(!HistorySelect((datetime)(copy.sent_ms/1000-86400),TimeCurrent()+86400))
      return CD_CANNOT_SAY;
   for(int i=0; i<HistoryDealsTotal(); i++)
     {
      ulong ticket=HistoryDealGetTicket(i);
      if(ticket==0)
         return CD_CANNOT_SAY;
      if((ulong)HistoryDealGetInteger(ticket,DEAL_MAGIC)==copy.magic)
         return CD_EXECUTED;
     }
   return CD_NO_TRACE;
  }

// Whether the history is complete: the terminal has been connected long enough to load it.
bool CdGuard::IsSettled(const long now_ms)
  {
   return (bool)TerminalInfoInteger(TERMINAL_CONNECTED) && m_connected_ms>0 && now_ms-m_connected_ms>=CD_SECOND_LOOK_MS
          && HistorySelect(TimeCurrent()-86400,TimeCurrent()+86400);
  }

// The volume rounded down to the symbol's step; 0 if it is below the minimum.
double CdGuard::Fit(const string symbol, const double volume)
  {
   double step=SymbolInfoDouble(symbol,SYMBOL_VOLUME_STEP);
   if(step<=0)
      return volume;
   double fitted=MathFloor(volume/step+0.0000001)*step;
   if(fitted<SymbolInfoDouble(symbol,SYMBOL_VOLUME_MIN)-step/2)
      return 0;
   return NormalizeDouble(fitted,CD_DECIMALS);
  }

// The lots to close so that a position follows its target; 0 for none. Only the target says how much is held: the
// order is rounded up to the present step, or down where that would close all, and is not sent if it would be too small.
double CdGuard::ToClose(const string symbol, const double held, const double target)
  {
   double step=SymbolInfoDouble(symbol,SYMBOL_VOLUME_STEP);
   double excess=held-target;
   if(excess<0.000000005)
      return 0;
   if(step<=0)
      return excess;
   double steps=MathFloor(excess/step+0.9999999);
   if(steps*step>held-0.000000005)
      steps=MathFloor(excess/step+0.0000001);
   double volume=NormalizeDouble(steps*step,CD_DECIMALS);
   if(volume<SymbolInfoDouble(symbol,SYMBOL_VOLUME_MIN)-step/2 || volume>held-0.000000005)
      return 0;
   return volume;
  }

CdOutcome CdGuard::Deal(const string symbol, const bool buys, const double volume, const double sl, const double tp,
                        const ulong magic, const ulong position)
  {
   if(volume<=0)
      return CD_REFUSED;
   MqlTradeRequest request={};
   MqlTradeResult result={};
   long filling=SymbolInfoInteger(symbol,SYMBOL_FILLING_MODE);
   request.action=TRADE_ACTION_DEAL;
   request.magic=magic;
   request.symbol=symbol;
   request.volume=volume;
   request.type=buys ? ORDER_TYPE_BUY : ORDER_TYPE_SELL;
   request.price=SymbolInfoDouble(symbol,buys ? SYMBOL_ASK : SYMBOL_BID);
   request.sl=sl;
   request.tp=tp;
   request.deviation=m_deviation;
   request.position=position;
   request.type_filling=ORDER_FILLING_RETURN;
   if((filling&SYMBOL_FILLING_IOC)!=0)
      request.type_filling=ORDER_FILLING_IOC;
   else if((filling&SYMBOL_FILLING_FOK)!=0)
      request.type_filling=ORDER_FILLING_FOK;
   bool sent=OrderSend(request,result);
   return sent || result.retcode!=0 ? CdOutcomeOf(result.retcode) : CD_UNKNOWN;
  }

CdOutcome CdGuard::Protect(const string symbol, const ulong position, const double sl, const double tp)
  {
   MqlTradeRequest request={};
   MqlTradeResult result={};
   request.action=TRADE_ACTION_SLTP;
   request.symbol=symbol;
   request.position=position;
   request.sl=sl;
   request.tp=tp;
   bool sent=OrderSend(request,result);
   return sent || result.retcode!=0 ? CdOutcomeOf(result.retcode) : CD_UNKNOWN;
  }
