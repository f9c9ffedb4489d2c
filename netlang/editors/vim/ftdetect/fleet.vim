autocmd BufNewFile,BufRead *.fleet setfiletype fleet
