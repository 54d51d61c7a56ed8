//! Static types and the declared functions.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Dyn,
    /// As open as dyn, but no range of a comprehension.
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Str,
    Bytes,
    Quantity,
    Semver,
    Duration,
    Timestamp,
    Ip,
    Cidr,
    Url,
    Format,
    /// What an authorizer leads to: there is no authorizer, so only open types can stand for it.
    Authorization(&'static str),
    Device,
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Optional(Box<Type>),
    /// The type of types.
    Kind(Box<Type>),
    /// A type that is still open.
    Var(u32),
    /// A type parameter of a declaration.
    Param(char),
}

impl fmt::Display for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => out.write_str("dyn"),
            Type::Any => out.write_str("google.protobuf.Any"),
            Type::Null => out.write_str("null_type"),
            Type::Bool => out.write_str("bool"),
            Type::Int => out.write_str("int"),
            Type::Uint => out.write_str("uint"),
            Type::Double => out.write_str("double"),
            Type::Str => out.write_str("string"),
            Type::Bytes => out.write_str("bytes"),
            Type::Quantity => out.write_str("kubernetes.Quantity"),
            Type::Semver => out.write_str("kubernetes.Semver"),
            Type::Duration => out.write_str("duration"),
            Type::Timestamp => out.write_str("timestamp"),
            Type::Ip => out.write_str("net.IP"),
            Type::Cidr => out.write_str("net.CIDR"),
            Type::Url => out.write_str("kubernetes.URL"),
            Type::Format => out.write_str("kubernetes.NamedFormat"),
            Type::Authorization(name) => write!(out, "kubernetes.authorization.{name}"),
            Type::Device => out.write_str("kubernetes.DRADevice"),
            Type::List(t) => write!(out, "list({t})"),
            Type::Map(k, v) => write!(out, "map({k}, {v})"),
            Type::Optional(t) => write!(out, "optional_type({t})"),
            Type::Kind(t) => write!(out, "type({t})"),
            Type::Var(n) => write!(out, "_var{n}"),
            Type::Param(c) => write!(out, "{c}"),
        }
    }
}

impl Type {
    pub fn list(of: Type) -> Type {
        Type::List(Box::new(of))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Box::new(key), Box::new(value))
    }

    pub fn optional(of: Type) -> Type {
        Type::Optional(Box::new(of))
    }
}

#[derive(Debug)]
pub struct Overload {
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
}

/// Function, member or global, overloads. Upper-case letters are type parameters; `L()` lists, `M(,)` maps, `O()` optionals.
const DECLARATIONS: &[(&str, bool, &str)] = &[
    ("!_", false, "b>b"),
    ("-_", false, "i>i d>d"),
    ("@not_strictly_false", false, "b>b"),
    ("_==_", false, "A,A>b"),
    ("_!=_", false, "A,A>b"),
    ("_<_", false, ORDER),
    ("_<=_", false, ORDER),
    ("_>_", false, ORDER),
    ("_>=_", false, ORDER),
    (
        "_+_",
        false,
        "y,y>y d,d>d e,e>e e,m>m m,e>m i,i>i L(A),L(A)>L(A) s,s>s u,u>u",
    ),
    ("_-_", false, "d,d>d e,e>e i,i>i m,e>m m,m>e u,u>u"),
    ("_*_", false, "d,d>d i,i>i u,u>u"),
    ("_/_", false, "d,d>d i,i>i u,u>u"),
    ("_%_", false, "i,i>i u,u>u"),
    ("@in", false, "A,L(A)>b A,M(A,B)>b"),
    (
        "_[_]",
        false,
        "L(A),i>A M(A,B),A>B O(L(A)),i>O(A) O(M(A,B)),A>O(B)",
    ),
    (
        "_[?_]",
        false,
        "L(A),i>O(A) O(L(A)),i>O(A) M(A,B),A>O(B) O(M(A,B)),A>O(B)",
    ),
    ("size", false, "s>i y>i L(A)>i M(A,B)>i"),
    ("size", true, "s>i y>i L(A)>i M(A,B)>i"),
    ("contains", true, "s,s>b"),
    ("startsWith", true, "s,s>b"),
    ("endsWith", true, "s,s>b"),
    ("matches", false, "s,s>b"),
    ("matches", true, "s,s>b"),
    ("bool", false, "b>b s>b"),
    ("bytes", false, "y>y s>y"),
    ("double", false, "d>d i>d s>d u>d"),
    ("dyn", false, "A>x"),
    ("int", false, "i>i d>i e>i s>i m>i u>i"),
    ("string", false, "s>s b>s y>s d>s e>s i>s m>s u>s p>s c>s"),
    ("type", false, "A>T(A)"),
    ("uint", false, "u>u d>u i>u s>u"),
    ("find", true, "s,s>s"),
    ("findAll", true, "s,s>L(s) s,s,i>L(s)"),
    (
        "isSorted",
        true,
        "L(i)>b L(u)>b L(d)>b L(b)>b L(e)>b L(m)>b L(s)>b L(y)>b",
    ),
    ("sum", true, "L(i)>i L(u)>u L(d)>d L(e)>e"),
    ("max", true, SELF),
    ("min", true, SELF),
    ("indexOf", true, "s,s>i s,s,i>i L(A),A>i"),
    ("lastIndexOf", true, "s,s>i s,s,i>i L(A),A>i"),
    ("includes", true, "x,x>b"),
    ("optional.of", false, "V>O(V)"),
    ("optional.ofNonZeroValue", false, "V>O(V)"),
    ("optional.none", false, ">O(V)"),
    ("value", true, "O(V)>V"),
    ("hasValue", true, "O(V)>b"),
    ("or", true, "O(V),O(V)>O(V)"),
    ("orValue", true, "O(V),V>V"),
    ("first", true, "L(V)>O(V)"),
    ("last", true, "L(V)>O(V)"),
    ("optional.unwrap", false, "L(O(V))>L(V)"),
    ("unwrapOpt", true, "L(O(V))>L(V)"),
    ("charAt", true, "s,i>s"),
    ("lowerAscii", true, "s>s"),
    ("upperAscii", true, "s>s"),
    ("replace", true, "s,s,s>s s,s,s,i>s"),
    ("split", true, "s,s>L(s) s,s,i>L(s)"),
    ("substring", true, "s,i>s s,i,i>s"),
    ("trim", true, "s>s"),
    ("join", true, "L(s)>s L(s),s>s"),
    ("format", true, "s,L(x)>s"),
    ("strings.quote", false, "s>s"),
    ("sets.contains", false, "L(A),L(A)>b"),
    ("sets.equivalent", false, "L(A),L(A)>b"),
    ("sets.intersects", false, "L(A),L(A)>b"),
    ("quantity", false, "s>q"),
    ("isQuantity", false, "s>b"),
    ("sign", false, "q>i"),
    ("isInteger", true, "q>b"),
    ("asInteger", true, "q>i"),
    ("asApproximateFloat", true, "q>d"),
    ("add", true, "q,q>q q,i>q"),
    ("sub", true, "q,q>q q,i>q"),
    ("isGreaterThan", true, "q,q>b v,v>b"),
    ("isLessThan", true, "q,q>b v,v>b"),
    ("compareTo", true, "q,q>i v,v>i"),
    ("semver", false, "s>v s,b>v"),
    ("isSemver", false, "s>b s,b>b"),
    ("major", true, "v>i"),
    ("minor", true, "v>i"),
    ("patch", true, "v>i"),
    ("slice", true, "L(A),i,i>L(A)"),
    ("flatten", true, "L(L(A))>L(A) L(x),i>L(x)"),
    ("sort", true, SORT),
    (
        "@sortByAssociatedKeys",
        true,
        "L(A),L(i)>L(A) L(A),L(u)>L(A) L(A),L(d)>L(A) L(A),L(b)>L(A) L(A),L(e)>L(A) L(A),L(m)>L(A) L(A),L(s)>L(A) L(A),L(y)>L(A)",
    ),
    ("reverse", true, "L(A)>L(A)"),
    ("distinct", true, "L(A)>L(A)"),
    ("lists.range", false, "i>L(i)"),
    (
        "cel.@mapInsert",
        false,
        "M(A,B),A,B>M(A,B) M(A,B),M(A,B)>M(A,B)",
    ),
    ("duration", false, "e>e s>e"),
    ("timestamp", false, "m>m i>m s>m"),
    ("getFullYear", true, PART),
    ("getMonth", true, PART),
    ("getDate", true, PART),
    ("getDayOfMonth", true, PART),
    ("getDayOfWeek", true, PART),
    ("getDayOfYear", true, PART),
    ("getHours", true, PART_OR_UNITS),
    ("getMinutes", true, PART_OR_UNITS),
    ("getSeconds", true, PART_OR_UNITS),
    ("getMilliseconds", true, PART_OR_UNITS),
    ("url", false, "s>w"),
    ("isURL", false, "s>b"),
    ("getScheme", true, "w>s"),
    ("getHost", true, "w>s"),
    ("getHostname", true, "w>s"),
    ("getPort", true, "w>s"),
    ("getEscapedPath", true, "w>s"),
    ("getQuery", true, "w>M(s,L(s))"),
    ("ip", false, "s>p"),
    ("ip", true, "c>p"),
    ("isIP", false, "s>b"),
    ("ip.isCanonical", false, "s>b"),
    ("family", true, "p>i"),
    ("isUnspecified", true, "p>b"),
    ("isLoopback", true, "p>b"),
    ("isLinkLocalMulticast", true, "p>b"),
    ("isLinkLocalUnicast", true, "p>b"),
    ("isGlobalUnicast", true, "p>b"),
    ("cidr", false, "s>c"),
    ("isCIDR", false, "s>b"),
    ("containsIP", true, "c,s>b c,p>b"),
    ("containsCIDR", true, "c,s>b c,c>b"),
    ("prefixLength", true, "c>i"),
    ("masked", true, "c>c"),
    ("format.named", false, "s>O(f)"),
    ("validate", true, "f,s>O(L(s))"),
    ("format.dns1123Label", false, ">f"),
    ("format.dns1123Subdomain", false, ">f"),
    ("format.dns1035Label", false, ">f"),
    ("format.qualifiedName", false, ">f"),
    ("format.dns1123LabelPrefix", false, ">f"),
    ("format.dns1123SubdomainPrefix", false, ">f"),
    ("format.dns1035LabelPrefix", false, ">f"),
    ("format.labelValue", false, ">f"),
    ("format.uri", false, ">f"),
    ("format.uuid", false, ">f"),
    ("format.byte", false, ">f"),
    ("format.date", false, ">f"),
    ("format.datetime", false, ">f"),
    ("path", true, "a,s>h"),
    ("group", true, "a,s>g"),
    ("serviceAccount", true, "a,s,s>a"),
    ("resource", true, "g,s>r"),
    ("subresource", true, "r,s>r"),
    ("namespace", true, "r,s>r"),
    ("name", true, "r,s>r"),
    ("fieldSelector", true, "r,s>r"),
    ("labelSelector", true, "r,s>r"),
    ("check", true, "h,s>t r,s>t"),
    ("errored", true, "t>b"),
    ("error", true, "t>s"),
    ("allowed", true, "t>b"),
    ("reason", true, "t>s"),
];

const PART: &str = "m>i m,s>i";
const PART_OR_UNITS: &str = "m>i m,s>i e>i";

const ORDER: &str =
    "b,b>b i,i>b i,d>b i,u>b u,u>b u,d>b u,i>b d,d>b d,i>b d,u>b s,s>b y,y>b m,m>b e,e>b";
const SELF: &str = "L(i)>i L(u)>u L(d)>d L(b)>b L(e)>e L(m)>m L(s)>s L(y)>y";
const SORT: &str =
    "L(i)>L(i) L(u)>L(u) L(d)>L(d) L(b)>L(b) L(e)>L(e) L(m)>L(m) L(s)>L(s) L(y)>L(y)";

/// The overloads of each function.
pub fn declarations() -> &'static HashMap<&'static str, Vec<Overload>> {
    static TABLE: OnceLock<HashMap<&str, Vec<Overload>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: HashMap<&str, Vec<Overload>> = HashMap::new();
        for (name, member, overloads) in DECLARATIONS {
            for overload in overloads.split(' ') {
                let (args, result) = overload
                    .split_once('>')
                    .expect("a declaration has a result");
                let mut rest = args;
                let mut list = Vec::new();
                while !rest.is_empty() {
                    let (one, after) = read(rest);
                    list.push(one);
                    rest = after.strip_prefix(',').unwrap_or(after);
                }
                table.entry(name).or_default().push(Overload {
                    member: *member,
                    args: list,
                    result: read(result).0,
                });
            }
        }
        table
    })
}

fn read(text: &str) -> (Type, &str) {
    let (head, rest) = text.split_at(1);
    let simple = match head {
        "b" => Type::Bool,
        "i" => Type::Int,
        "u" => Type::Uint,
        "d" => Type::Double,
        "s" => Type::Str,
        "y" => Type::Bytes,
        "q" => Type::Quantity,
        "v" => Type::Semver,
        "e" => Type::Duration,
        "m" => Type::Timestamp,
        "p" => Type::Ip,
        "c" => Type::Cidr,
        "w" => Type::Url,
        "f" => Type::Format,
        "a" => Type::Authorization("Authorizer"),
        "h" => Type::Authorization("PathCheck"),
        "g" => Type::Authorization("GroupCheck"),
        "r" => Type::Authorization("ResourceCheck"),
        "t" => Type::Authorization("Decision"),
        "x" => Type::Dyn,
        _ => Type::Param(head.chars().next().unwrap_or('?')),
    };
    let Some(inner) = rest.strip_prefix('(') else {
        return (simple, rest);
    };
    let (first, rest) = read(inner);
    if head == "M" {
        let (second, rest) = read(&rest[1..]);
        return (Type::map(first, second), &rest[1..]);
    }
    let made = match head {
        "L" => Type::list(first),
        "O" => Type::optional(first),
        _ => Type::Kind(Box::new(first)),
    };
    (made, &rest[1..])
}
