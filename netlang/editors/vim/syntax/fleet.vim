" Vim syntax file of fleet's network files.
" Written by `netlang::ide::grammar`; edit its template, not this file.

if exists("b:current_syntax")
  finish
endif

syntax case match

" Later matches win over earlier ones that start at the same place.
syntax match fleetName /\<\l[a-z0-9_]*\>/
syntax match fleetChoice /\<\%(accept\|aggressive\|always\|bird\|boot\|bridge\|camera\|cpu\|default\|drop\|duration\|failed\|flood\|forward\|frr\|host\|icmp\|int\|ksm\|linux\|masquerade\|mem\|net\|never\|off\|prefix\|qemu\|ratio\|size\|suppress\|text\|uml\|vde\)\>[.[]\@!/
syntax match fleetOption /\<\%(apart\|as\|at\|cannot\|check\|converged\|cost\|delay\|dhcp\|diameter\|div\|each\|end\|every\|fail\|from\|gateway\|heal\|in\|jitter\|lan\|lease\|link\|loss\|max\|mesh\|mod\|of\|on\|order\|out\|pause\|per\|place\|rack\|rate\|reach\|reaches\|reboot\|resume\|router\|run\|second\|seed\|set\|start\|stop\|tag\|tcp\|times\|to\|together\|udp\|until\|vm\|without\)\>[.[]\@!/
syntax match fleetMark /--\|->\|<=\|>=\|\.\.\|[=+*-]/
syntax match fleetPart /\.\@1<=\l[a-z0-9_]*/
syntax match fleetMethod /\.\@1<=\%(sub\|host\)(\@=/
syntax match fleetNumber /\<\d\+\%(\.\d\+\)\?\%(%\|\%(Gbit\|GiB\|KiB\|Mbit\|MiB\|h\|kbit\|min\|ms\|ns\|pps\|s\|us\)\>\)\?/
syntax match fleetAddress /\<\d\+\.\d\+\.\d\+\.\d\+\%(\/\d\+\)\?\>/
syntax match fleetAddress /[[:alnum:]_.]\@1<!\/\d\+\>/
syntax match fleetInstance /^\s*\zs\l[a-z0-9_]*\ze\s\+\l[a-z0-9_]*\s*[[{]/
syntax match fleetProperty /\%(\%(^\|[{;}]\)\s*\)\@80<=\%(allow\|apart\|area\|arp\|asn\|at\|bgp\|boot\|collect\|console\|cost\|cpu\|dead\|default\|delay\|deny\|dhcp\|end\|every\|fail\|firewall\|gateway\|heal\|hello\|host\|hosts\|hypervisor\|image\|interface\|isolate\|kind\|ksm\|learn\|loss\|mem\|mtu\|nat\|needs\|net\|on\|originate\|ospf\|overcommit\|passive\|pause\|pcap\|per\|place\|rate\|reboot\|restart\|resume\|routes\|run\|sample\|set\|sha256\|start\|stop\|storm\|switch\|together\|wait\)\>/
syntax match fleetKeyword /\%(\%(^\|[{;}]\)\s*\)\@80<=\%(check\|default\|experiment\|external\|image\|lan\|language\|let\|link\|module\|param\|place\|pool\|router\|telemetry\|vm\)\>/
syntax match fleetDeclared /\%(^\s*\%(experiment\|external\|image\|lan\|let\|module\|param\|router\|vm\)\s\+\)\@80<=\l[a-z0-9_]*/
syntax match fleetText /"[^"]*"\?/ contains=@Spell
syntax match fleetComment /#.*$/ contains=fleetTodo,@Spell
syntax keyword fleetTodo contained TODO FIXME
syntax region fleetBlock start=/{/ end=/}/ transparent fold

highlight default link fleetChoice Constant
highlight default link fleetOption Operator
highlight default link fleetMark Operator
highlight default link fleetMethod Function
highlight default link fleetNumber Number
highlight default link fleetAddress Number
highlight default link fleetInstance Type
highlight default link fleetProperty Statement
highlight default link fleetKeyword Keyword
highlight default link fleetDeclared Identifier
highlight default link fleetText String
highlight default link fleetComment Comment
highlight default link fleetTodo Todo

let b:current_syntax = "fleet"
