a = '{{ fileDirname }}/x'
b = '{{fileBasename}}'
c = ['{{ fileBasenameNoExtension }}', '{{ fileExtname }}']
d = './runs/{{ fileBasenameNoExtension }}/{{fileBasename}}'
