a = '{{ fileDirname }}/x'
b = '{{fileBasename}}'
c = ['{{ fileBasenameNoExtension }}', '{{ fileExtname }}']
d = './work/{{ fileBasenameNoExtension }}/{{fileBasename}}'
