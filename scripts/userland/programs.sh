#!/bin/bash
# Programs of a Debian userland with one right output each, so that two machines can be compared. Every `t` names one; its
# output and status follow. What is printed depends neither on the time nor on the machine: the C library is told to leave
# out what squib's CPU does not offer, because FMA rounds otherwise.
cd /tmp || exit 1
t() {
  local name=$1
  shift
  echo "@@ $name"
  "$@" 2>&1
  echo "@= $?"
}

t perl-int perl -e 'my $s=0; for my $i (1..300000){ $s=($s*1103515245+$i)&0xffffffff; } print "$s\n"; printf "%.17g %.17g %.17g %.17g\n", sin(1.1), exp(2.5), log(7), atan2(1,3); print join(",", map { sprintf "%.17g", $_**0.37 } 1..20),"\n"; my %h; $h{$_ % 97}.=chr(65+$_%26) for 1..20000; print length($h{$_})," " for sort {$a<=>$b} keys %h; print "\n";'
t perl-regex perl -e 'my $t="abc" x 5000; my $n=()=$t=~/(b)(c)(?=a)/g; print "$n\n"; $t=~s/(a)(b)/$2$1/g; print substr($t,0,30),"\n"; print join(" ",sort { $b cmp $a } split //, "squib the quick brown fox"),"\n"'
t python-math python3 -c 'import math,struct
x=[math.sin(i*.7)*math.exp(-i/50)+math.log1p(i)+math.atan2(i,3)+math.tan(i*.3)+math.cosh(i/100)+math.erf(i/40)+math.gamma(1+i/50) for i in range(200)]
import hashlib
print(hashlib.sha256(struct.pack("200d",*x)).hexdigest(), repr(x[17]), repr(math.fsum(x)))'
t python-bigint python3 -c 'print(pow(3,20011,10**300+7)); print(sum(int(d) for d in str(2**14000))); import fractions; print(sum(fractions.Fraction(1,i) for i in range(1,300)))'
t python-mix python3 -c 'import json,re,zlib,hashlib,random,collections,decimal
random.seed(7); d={str(i):[random.random() for _ in range(5)] for i in range(2000)}
s=json.dumps(d,sort_keys=True); print(hashlib.md5(s.encode()).hexdigest(), json.loads(s)==d)
z=zlib.compress(s.encode(),9); print(len(z), hashlib.sha1(z).hexdigest(), zlib.decompress(z)==s.encode(), zlib.crc32(s.encode()))
decimal.getcontext().prec=60; print(decimal.Decimal(2).sqrt()/decimal.Decimal(7).ln())
print(collections.Counter(re.findall(r"\d{3}", s)).most_common(5))
for h in ("sha3_512","blake2b","sha512","blake2s"): print(hashlib.new(h,s.encode()).hexdigest())
print(float("1e308")*10, float("5e-324")/2, (0.1+0.2).hex(), round(2.675,2), 1e16+1, divmod(-7.5,2))'
cat > p.c <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <complex.h>
#include <setjmp.h>
#include <signal.h>
static int cmp(const void*a,const void*b){double x=*(double*)a,y=*(double*)b;return x<y?-1:x>y;}
static sigjmp_buf env; static void h(int s){siglongjmp(env,s);}
int main(void){ double v[5000]; unsigned long s=1; for(int i=0;i<5000;i++){s=s*6364136223846793005UL+1442695040888963407UL; v[i]=(double)(s>>11)/9007199254740992.0-0.5;}
 qsort(v,5000,sizeof*v,cmp); long double ld=0; for(int i=0;i<5000;i++) ld+=sinl(v[i])*expl(v[i])/(1+cosl(v[i]))+powl(fabsl(v[i]),0.3L)+log2l(1.5L+v[i])+atanl(v[i])+fmodl(v[i]*1e5L,0.37L);
 printf("%.17g %.17g %.21Lg\n",v[0],v[4999],ld); printf("%La %La %La\n", sqrtl(2.0L), cbrtl(3.0L), tgammal(4.5L));
 double complex c=cexp(1.0+2.0*I)*csqrt(-3+4*I); printf("%.17g %.17g\n",creal(c),cimag(c));
 volatile int z=0; signal(SIGFPE,h); signal(SIGSEGV,h); signal(SIGILL,h); int k=sigsetjmp(env,1); if(!k) printf("%d\n",1/z); printf("sig %d\n",k);
 k=sigsetjmp(env,1); if(!k) *(volatile int*)8=1; printf("sig %d\n",k); k=sigsetjmp(env,1); if(!k) __builtin_trap(); printf("sig %d\n",k);
 char b[400]; memset(b,7,400); memmove(b+3,b,300); unsigned x=0; for(int i=0;i<400;i++) x=x*31+b[i]; printf("%u %s\n",x,strstr("the quick brown fox","own")); __int128 w=(__int128)s*s; printf("%lx %lx\n",(long)(w>>64),(long)(w%1000003)); return 3; }
C
t gcc-O0 sh -c 'gcc -O0 p.c -o p0 -lm && ./p0'
t gcc-O2 sh -c 'gcc -O2 p.c -o p2 -lm && ./p2; sha256sum < p2'
t gcc-O3-x87 sh -c 'gcc -O3 -msse4.2 -mpopcnt p.c -S -o - | sha256sum; gcc -O3 -m80387 -mfpmath=387 p.c -o p3 -lm && ./p3'
head -c 3000000 /usr/bin/perl > big 2>/dev/null || head -c 3000000 /usr/bin/python3.11 > big
for a in md5 sha1 sha256 sha512 sha3-256 blake2b512 ripemd160 sm3; do t openssl-$a openssl dgst -$a big; done
for c in aes-128-cbc aes-256-ctr aes-256-cfb chacha20 camellia-128-cbc aria-128-cbc; do t openssl-$c sh -c "openssl enc -$c -K 000102030405060708090a0b0c0d0e0f -iv 00112233445566778899aabbccddeeff -in big 2>/dev/null | openssl sha256"; done
cat > k.pem <<'K'
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
K
t openssl-ed25519 sh -c 'openssl pkeyutl -sign -inkey k.pem -rawin -in p.c | sha256sum'
t openssl-prime sh -c 'openssl prime 170141183460469231731687303715884105727; openssl prime -generate -bits 64 >/dev/null && echo ok'
t openssl-rsa sh -c 'openssl genrsa 2048 2>/dev/null > r.pem && openssl dgst -sha256 -sign r.pem p.c > sig && openssl rsa -in r.pem -pubout 2>/dev/null > pub.pem && openssl dgst -sha256 -verify pub.pem -signature sig p.c'
t openssl-ec sh -c 'openssl ecparam -name prime256v1 -genkey -noout > e.pem && openssl dgst -sha384 -sign e.pem p.c > sig && openssl ec -in e.pem -pubout 2>/dev/null > pub.pem && openssl dgst -sha384 -verify pub.pem -signature sig p.c'
t sqlite sqlite3 :memory: "create table t(a integer primary key, b real, c text); with recursive n(i) as (select 1 union all select i+1 from n where i<20000) insert into t select i, sqrt(i)*sin(i), printf('%08x',i*2654435761) from n; create index x on t(c); select count(*), sum(b), max(c), group_concat(c) from t where a%1999=0; select round(avg(b),12), total(a*b) from t; select c, b from t order by b desc limit 5; pragma integrity_check;"
t node node -e 'const c=require("crypto");let s=0;for(let i=0;i<2e6;i++){s=(Math.imul(s,31)+i)|0}console.log(s,Math.sin(1e5),Math.pow(2,.5),Math.exp(1),[3,1,2].sort().join());const h=c.createHash("sha256");for(let i=0;i<2000;i++)h.update(JSON.stringify({i,x:Math.cos(i)}));console.log(h.digest("hex"));const m=new Map();for(let i=0;i<50000;i++)m.set("k"+i%777,(m.get("k"+i%777)||0)+i*0.1);console.log([...m].slice(0,9));console.log(2n**513n%1000007n,parseFloat("0.1")+0.2,(123.456).toFixed(10),new Float32Array([1/3])[0],"ab".repeat(9).replace(/b(?=a)/g,"_"),new Intl.NumberFormat("en").format(1234567.891));'
t wasm-in-node node -e 'const b=new Uint8Array([0,97,115,109,1,0,0,0,1,6,1,96,1,127,1,127,3,2,1,0,7,7,1,3,102,105,98,0,0,10,30,1,28,0,32,0,65,2,72,4,127,32,0,5,32,0,65,1,107,16,0,32,0,65,2,107,16,0,106,11,11]);WebAssembly.instantiate(b).then(r=>console.log(r.instance.exports.fib(22)))'
t gzip sh -c 'gzip -9 -n < big | tee big.gz | sha256sum; gzip -t big.gz && gzip -dc big.gz | cmp - big && echo same'
t xz sh -c 'xz -3 -T1 -c big | tee big.xz | sha256sum; xz -t big.xz && echo ok'
t bzip2 sh -c 'bzip2 -c big | sha256sum'
gawk 'BEGIN{srand(42); for(i=0;i<150000;i++) print int(rand()*1e9), rand()}' > lines
t sort sh -c 'sort -n lines | sha256sum; sort -k2,2g lines | sha256sum; sort -R --random-source=big lines | sha256sum; sort lines | uniq -c | wc -l'
t gawk gawk '{s+=$1*sin($2); c[substr($1,1,2)]++} END{printf "%.15g %d\n", s, length(c); for(i=10;i<20;i++) printf "%d ", c[i]; print ""}' lines
t bc sh -c 'echo "scale=200; 4*a(1); e(1); sqrt(2); l(3)" | bc -l'
t sed sh -c 'sed -E "s/([0-9])([0-9])/\2\1/g;/^1/d" lines | sha256sum'
t grep sh -c 'grep -cE "^(1|2).*7\$" lines; grep -cP "(\d)\1{2}" lines; grep -F -c 99 lines'
t tar sh -c 'tar --sort=name --mtime=@0 --owner=0 --group=0 -cf - /usr/include | sha256sum'
t diff sh -c 'sort -n lines > a; sort lines > b; diff a b | sha256sum'
t factor sh -c 'for n in 1000000007000000063 18446744073709551557 340282366920938463463374607431768211455; do factor $n; done'
t bash bash -c 'a=0; for ((i=0;i<30000;i++)); do ((a=(a*7+i)%1000003)); done; echo $a; printf "%x %o %e\n" 255 8 1.5; declare -A m; for i in {1..500}; do m[$((i%13))]+=$i; done; echo ${#m[3]}'
echo "@@"
