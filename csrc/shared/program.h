/* How both programs find and enter what they execute. */
#ifndef PROGRAM_H
#define PROGRAM_H

const char *search_path(char **env); /* its $PATH, or the one that a container has without */
int enter_directory(const char *path);

#endif
