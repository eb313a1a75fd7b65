// Copydesk for MQL5: signing requests, checking answers and packets.
//
// Reference, not compiled here with MetaEditor: written from MetaTrader's documentation, and tested with a C++ compiler
// and a stand-in for the terminal (copybot/tests/test_mql5.py). Compile it in MetaEditor and check README.md's vectors
// before you trade real money with it.
//
// CryptEncode(CRYPT_HASH_SHA256) takes a key and ignores it: the result is a plain hash, which anyone can compute. So
// the HMAC is implemented here. StringToCharArray appends a NUL unless it gets the length: always pass the length.

#ifndef COPYDESK_MQH
#define COPYDESK_MQH

#define CD_BLOCK 64
#define CD_DIGEST 32
#define CD_HEX 64
#define CD_SHA256_OF_NOTHING "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define CD_PACKET_LABEL "copydesk/packet/v1"

#define CD_DIGITS "0123456789"
#define CD_NAME "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-"
#define CD_SYMBOL "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._#/+&!@$^~-"
#define CD_TYPES "|BUY|SELL|BUY_LIMIT|SELL_LIMIT|BUY_STOP|SELL_STOP|"
#define CD_ACTIONS "|OPEN|MODIFY|REDUCE|CLOSE|"
#define CD_MOST_NAME 64
#define CD_MOST_SYMBOL 32
#define CD_MOST_SEQ "9223372036854775807"
#define CD_MOST_GEN 9
#define CD_TIME 13
#define CD_WHOLE 10
#define CD_DECIMALS 8
#define CD_NOTHING "0.00000000"
#define CD_MARK 0x43

//--- bytes and hashes

// The characters as ASCII bytes, without a NUL at the end. False if a character is not ASCII.
bool CdBytes(const string text, uchar &bytes[])
  {
   int length=StringLen(text);
   ArrayResize(bytes,length);
   for(int i=0; i<length; i++)
     {
      ushort character=StringGetCharacter(text,i);
      if(character==0 || character>127)
         return false;
      bytes[i]=(uchar)character;
     }
   return true;
  }

string CdHexOf(const uchar &bytes[])
  {
   string digits="0123456789abcdef";
   string hex="";
   for(int i=0; i<ArraySize(bytes); i++)
      hex+=StringSubstr(digits,bytes[i]>>4,1)+StringSubstr(digits,bytes[i]&15,1);
   return hex;
  }

int CdNibble(const ushort character)
  {
   if(character>='0' && character<='9')
      return character-'0';
   return character-'a'+10;
  }

void CdUnhex(const string hex, uchar &bytes[])
  {
   int length=StringLen(hex)/2;
   ArrayResize(bytes,length);
   for(int i=0; i<length; i++)
      bytes[i]=(uchar)(CdNibble(StringGetCharacter(hex,2*i))*16+CdNibble(StringGetCharacter(hex,2*i+1)));
  }

// False if the terminal could not compute the hash: then nothing may be signed or accepted.
bool CdSha256(const uchar &data[], uchar &digest[])
  {
   if(ArraySize(data)==0)
     {
      CdUnhex(CD_SHA256_OF_NOTHING,digest);  // whether CryptEncode takes an empty array is not documented
      return true;
     }
   uchar none[];
   return CryptEncode(CRYPT_HASH_SHA256,data,none,digest)==CD_DIGEST;
  }

// RFC 2104: H(key ^ opad, H(key ^ ipad, data)). A key longer than a block is hashed first.
bool CdHmac(const uchar &key[], const uchar &data[], uchar &mac[])
  {
   uchar block[];
   if(ArraySize(key)>CD_BLOCK)
     {
      if(!CdSha256(key,block))
         return false;
     }
   else
      ArrayCopy(block,key);
   int used=ArraySize(block);
   ArrayResize(block,CD_BLOCK);
   for(int i=used; i<CD_BLOCK; i++)
      block[i]=0;
   uchar inner[];
   uchar outer[];
   uchar digest[];
   ArrayResize(inner,CD_BLOCK);
   ArrayResize(outer,CD_BLOCK);
   for(int i=0; i<CD_BLOCK; i++)
     {
      inner[i]=(uchar)(block[i]^0x36);
      outer[i]=(uchar)(block[i]^0x5c);
     }
   ArrayCopy(inner,data,CD_BLOCK);
   if(!CdSha256(inner,digest))
      return false;
   ArrayCopy(outer,digest,CD_BLOCK);
   return CdSha256(outer,mac);
  }

// HMAC-SHA256 in hex; the key is the secret's characters as shown. Empty if it could not be computed.
string CdSigned(const string secret, const string text)
  {
   uchar key[];
   uchar data[];
   uchar mac[];
   if(!CdBytes(secret,key) || !CdBytes(text,data) || !CdHmac(key,data,mac))
      return "";
   return CdHexOf(mac);
  }

string CdHashed(const uchar &data[])
  {
   uchar digest[];
   if(!CdSha256(data,digest))
      return "";
   return CdHexOf(digest);
  }

// Whether two signatures are equal, in constant time.
bool CdSame(const string given, const string right)
  {
   if(StringLen(given)!=CD_HEX || StringLen(right)!=CD_HEX)
      return false;
   int different=0;
   for(int i=0; i<CD_HEX; i++)
      different|=StringGetCharacter(given,i)^StringGetCharacter(right,i);
   return different==0;
  }

//--- requests and answers

// The signature of a request. A GET has the effect "". The host includes its port unless that is 443.
string CdRequest(const string secret, const string method, const string host, const string path, const string query,
                 const string key, const long time_ms, const int window_ms, const long seq, const string effect,
                 const uchar &body[])
  {
   string hash=CdHashed(body);
   if(hash=="")
      return "";
   string lines="CD1-HMAC-SHA256\n"+method+"\n"+host+"\n"+path+"\n"+query+"\n"+key+"\n"+IntegerToString(time_ms)+"\n";
   lines+=IntegerToString(window_ms)+"\n"+IntegerToString(seq)+"\n"+(effect=="" ? "-" : effect)+"\n"+hash;
   return CdSigned(secret,lines);
  }

// The headers for WebRequest. Empty if there is no signature.
string CdHeaders(const string key, const long time_ms, const int window_ms, const long seq, const string effect,
                 const string signature, const bool has_body)
  {
   if(signature=="")
      return "";
   string headers="X-Cd-Key: "+key+"\r\nX-Cd-Time: "+IntegerToString(time_ms)+"\r\n";
   headers+="X-Cd-Window: "+IntegerToString(window_ms)+"\r\nX-Cd-Seq: "+IntegerToString(seq)+"\r\n";
   headers+="X-Cd-Sig: v1="+signature+"\r\n";
   if(effect!="")
      headers+="Idempotency-Key: "+effect+"\r\n";
   if(has_body)
      headers+="Content-Type: application/json\r\n";
   return headers;
  }

// A header's value in the result of WebRequest; "" if it is missing. Names are compared without case.
string CdHeader(const string headers, const string name)
  {
   string folded=headers;
   string wanted=name;
   StringToLower(folded);
   StringToLower(wanted);
   int at=StringFind("\n"+folded,"\n"+wanted+":",0);
   if(at<0)
      return "";
   int begin=at+StringLen(wanted)+1;
   int end=StringFind(headers,"\n",begin);
   string value=StringSubstr(headers,begin,end<0 ? -1 : end-begin);
   StringTrimLeft(value);
   StringTrimRight(value);
   return value;
  }

// Whether the desk signed this answer to this request. Do not act on an unsigned answer, a refusal neither: the outcome
// of a write is then unknown, so repeat it with the same effect and a new number.
bool CdAnswers(const string secret, const string request_signature, const int status, const string headers,
               const uchar &body[])
  {
   string time_ms=CdHeader(headers,"X-Cd-Response-Time");
   string given=CdHeader(headers,"X-Cd-Response-Sig");
   string hash=CdHashed(body);
   if(hash=="" || StringSubstr(given,0,3)!="v1=")
      return false;
   string lines="CD1-RESPONSE\n"+request_signature+"\n"+IntegerToString(status)+"\n"+time_ms+"\n"+hash;
   return CdSame(StringSubstr(given,3),CdSigned(secret,lines));
  }

// The ETag of a verified answer, or "" if the desk did not sign it: then send no If-None-Match with the next read. A 304
// means "unchanged" only if CdAnswers is true and this is the ETag that the request sent.
string CdEtag(const string secret, const string request_signature, const int status, const string headers,
              const uchar &body[])
  {
   string time_ms=CdHeader(headers,"X-Cd-Response-Time");
   string given=CdHeader(headers,"X-Cd-Response-Etag-Sig");
   string etag=CdHeader(headers,"ETag");
   string hash=CdHashed(body);
   if(etag=="" || hash=="" || StringSubstr(given,0,3)!="v1=")
      return "";
   string lines="CD1-RESPONSE-ETAG\n"+request_signature+"\n"+IntegerToString(status)+"\n"+time_ms+"\n"+hash+"\n"+etag;
   return CdSame(StringSubstr(given,3),CdSigned(secret,lines)) ? etag : "";
  }

//--- packets

struct CdPacket
  {
   string            sub_id;
   string            seq;
   string            timestamp;
   string            symbol;
   string            type;
   string            volume;
   string            price;
   string            sl;
   string            tp;
   string            action;
   string            trade_ref;
   string            gen;
   string            signature;
   string            signature_v1;
  };

bool CdConsistsOf(const string text, const string characters, const int most)
  {
   int length=StringLen(text);
   if(length<1 || length>most)
      return false;
   for(int i=0; i<length; i++)
      if(StringFind(characters,StringSubstr(text,i,1),0)<0)
         return false;
   return true;
  }

// A whole number above zero, without leading zeros.
bool CdIsNumber(const string text, const int most)
  {
   return CdConsistsOf(text,CD_DIGITS,most) && StringSubstr(text,0,1)!="0";
  }

bool CdIsSeq(const string text)
  {
   if(!CdIsNumber(text,StringLen(CD_MOST_SEQ)))
      return false;
   return StringLen(text)<StringLen(CD_MOST_SEQ) || StringCompare(text,CD_MOST_SEQ)<=0;
  }

bool CdIsAmount(const string text)
  {
   int point=StringFind(text,".",0);
   if(point<1 || StringLen(text)-point-1!=CD_DECIMALS)
      return false;
   string whole=StringSubstr(text,0,point);
   return (whole=="0" || CdIsNumber(whole,CD_WHOLE)) && CdConsistsOf(StringSubstr(text,point+1),CD_DIGITS,CD_DECIMALS);
  }

// A close passes at any price, also below zero.
bool CdIsPrice(const string text)
  {
   return CdIsAmount(StringFind(text,"-",0)==0 ? StringSubstr(text,1) : text);
  }

// A stop is an empty text or an amount above zero.
bool CdIsStop(const string text)
  {
   return text=="" || (CdIsAmount(text) && text!=CD_NOTHING);
  }

bool CdIsOneOf(const string text, const string list)
  {
   return text!="" && StringFind(text,"|",0)<0 && StringFind(list,"|"+text+"|",0)>=0;
  }

string CdNine(const CdPacket &packet)
  {
   return packet.sub_id+"|"+packet.seq+"|"+packet.timestamp+"|"+packet.symbol+"|"+packet.type+"|"+packet.volume+"|"
          +packet.price+"|"+packet.sl+"|"+packet.tp;
  }

bool CdNineHold(const CdPacket &packet, const bool may_be_nothing)
  {
   return CdConsistsOf(packet.sub_id,CD_NAME,CD_MOST_NAME) && CdIsSeq(packet.seq)
          && StringLen(packet.timestamp)==CD_TIME && CdIsNumber(packet.timestamp,CD_TIME)
          && CdConsistsOf(packet.symbol,CD_SYMBOL,CD_MOST_SYMBOL) && CdIsOneOf(packet.type,CD_TYPES)
          && CdIsAmount(packet.volume) && (may_be_nothing || packet.volume!=CD_NOTHING)
          && CdIsPrice(packet.price) && CdIsStop(packet.sl) && CdIsStop(packet.tp);
  }

// A GAPFILL uses up a number that carries nothing for this subscription. Its trade_ref is the next number.
bool CdGapfillHolds(const CdPacket &packet)
  {
   return CdConsistsOf(packet.sub_id,CD_NAME,CD_MOST_NAME) && CdIsSeq(packet.seq) && packet.seq!=CD_MOST_SEQ
          && StringLen(packet.timestamp)==CD_TIME && CdIsNumber(packet.timestamp,CD_TIME)
          && packet.symbol=="-" && packet.type=="-" && packet.volume==CD_NOTHING && packet.price==CD_NOTHING
          && packet.sl=="" && packet.tp=="" && packet.trade_ref==IntegerToString(StringToInteger(packet.seq)+1)
          && CdIsNumber(packet.gen,CD_MOST_GEN);
  }

bool CdPacketHolds(const CdPacket &packet)
  {
   if(packet.action=="GAPFILL")
      return CdGapfillHolds(packet);
   return CdNineHold(packet,packet.action=="CLOSE") && CdIsOneOf(packet.action,CD_ACTIONS)
          && CdConsistsOf(packet.trade_ref,CD_NAME,CD_MOST_NAME) && CdIsNumber(packet.gen,CD_MOST_GEN);
  }

string CdPayload(const CdPacket &packet)
  {
   return CdNine(packet)+"|CP1|"+packet.action+"|"+packet.trade_ref+"|"+packet.gen;
  }

// Why a packet must not be acted on; "" if it may. The MAC covers the text as received and is checked before any field
// is parsed: a number that was parsed and written again may be another text. The payload is never split into fields.
string CdRefusal(const CdPacket &packet, const string secret, const string sub_id, const int generation)
  {
   string given=packet.signature_v1;
   StringToLower(given);
   string key=CdSigned(secret,CD_PACKET_LABEL);
   if(key=="" || !CdSame(given,CdSigned(key,CdPayload(packet))))
      return "packet_signature";
   if(!CdPacketHolds(packet))
      return "packet_grammar";
   if(packet.sub_id!=sub_id || packet.gen!=IntegerToString(generation))
      return "packet_stranger";
   return "";
  }

// Checks the short form of nine fields. They name no trade, so take closes from the snapshot.
string CdSeedRefusal(const CdPacket &packet, const string secret)
  {
   string given=packet.signature;
   StringToLower(given);
   if(!CdSame(given,CdSigned(secret,CdNine(packet))))
      return "packet_signature";
   return CdNineHold(packet,false) ? "" : "packet_grammar";
  }

// The magic number that ties orders, deals and positions to a trade: 0x43, the subscription's index on this account (16
// bits) and 40 bits of the trade's hash, so that positions are recognised without the state file. 0 on failure.
ulong CdMagic(const int index, const string trade_ref)
  {
   uchar bytes[];
   uchar digest[];
   if(!CdBytes(trade_ref,bytes) || !CdSha256(bytes,digest))
      return 0;
   ulong magic=((ulong)CD_MARK<<56)|((ulong)(index&0xFFFF)<<40);
   for(int i=0; i<5; i++)
      magic|=(ulong)digest[i]<<(8*(4-i));
   return magic;
  }

#endif
