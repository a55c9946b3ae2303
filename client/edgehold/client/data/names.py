"""Names of columns and classes that a file does not carry itself."""

from collections.abc import Iterable

from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


UNSW_CLASSES = (
    "Normal", "Generic", "Exploits", "Fuzzers", "DoS", "Reconnaissance", "Analysis", "Backdoor", "Shellcode", "Worms",
)  # fmt: skip

KDD_FEATURES = _words(
    """duration protocol_type service flag src_bytes dst_bytes land wrong_fragment urgent hot num_failed_logins logged_in
    num_compromised root_shell su_attempted num_root num_file_creations num_shells num_access_files num_outbound_cmds
    is_host_login is_guest_login count srv_count serror_rate srv_serror_rate rerror_rate srv_rerror_rate same_srv_rate
    diff_srv_rate srv_diff_host_rate dst_host_count dst_host_srv_count dst_host_same_srv_rate dst_host_diff_srv_rate
    dst_host_same_src_port_rate dst_host_srv_diff_host_rate dst_host_serror_rate dst_host_srv_serror_rate
    dst_host_rerror_rate dst_host_srv_rerror_rate"""
)
KDD_MISSING_IN_36 = ("logged_in", "srv_count", "rerror_rate", "srv_diff_host_rate", "dst_host_srv_count")
KDD_GROUPS = ("normal", "dos", "probe", "r2l", "u2r")
_KDD_ATTACKS = {
    "normal": "normal",
    "dos": "back land neptune pod smurf teardrop apache2 mailbomb processtable udpstorm worm",
    "probe": "ipsweep nmap portsweep satan mscan saint",
    "r2l": """ftp_write guess_passwd imap multihop phf spy warezclient warezmaster httptunnel named sendmail snmpgetattack
    snmpguess xlock xsnoop""",
    "u2r": "buffer_overflow loadmodule perl rootkit ps sqlattack xterm",
}
KDD_GROUP_OF = {attack: group for group, attacks in _KDD_ATTACKS.items() for attack in attacks.split()}
"""Attack -> group, normal first. Sources place worm and httptunnel differently; here worm is dos and httptunnel r2l."""

TON_NUMBERS = (
    "duration", "src_bytes", "dst_bytes", "missed_bytes", "src_pkts", "src_ip_bytes", "dst_pkts", "dst_ip_bytes",
    "dns_qclass", "dns_qtype", "dns_rcode", "http_request_body_len", "http_response_body_len", "http_status_code",
)  # fmt: skip
TON_TEXTS = ("proto", "service", "conn_state", "dns_AA", "dns_RD", "dns_RA", "dns_rejected", "http_method")
TON_TYPES = (
    "normal", "backdoor", "ddos", "dos", "injection", "mitm", "password", "ransomware", "scanning", "xss",
)  # fmt: skip

ADULT_COLUMNS = _words(
    """age workclass fnlwgt education education-num marital-status occupation relationship race sex capital-gain
    capital-loss hours-per-week native-country income"""
)
ADULT_NUMBERS = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")

HEART_COLUMNS = _words("age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal num")
HEART_CATEGORIES = {"cp": (1, 2, 3, 4), "restecg": (0, 1, 2), "slope": (1, 2, 3), "thal": (3, 6, 7)}

WISDM_CLASSES = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")
WATCH_CLASSES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
WATCH_CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")

BEIJING_STATIONS = _words(
    """Aotizhongxin Changping Dingling Dongsi Guanyuan Gucheng Huairou Nongzhanguan Shunyi Tiantan Wanliu
    Wanshouxigong"""
)
BEIJING_NUMBERS = ("PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "WSPM")
WINDS = _words("N NNE NE ENE E ESE SE SSE S SSW SW WSW W WNW NW NNW")


def one_of(option: str, found: str, allowed: Iterable[str]) -> str:
    """`found`, or `ConfigError` that lists what the option may be."""
    choices = list(allowed)
    if found not in choices:
        raise ConfigError(f"{option} = {found!r}{suggest(str(found), choices)}", field=option)
    return found
